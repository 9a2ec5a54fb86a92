# expect: OK
# Reading the weights is all the work: many calls at once would share it. So short that a timed round has several.
import torch
import torch.nn as nn

FEATURES, OUTPUTS = 2048, 2048


class Model(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.linear = nn.Linear(features, outputs)

    def forward(self, x):
        return self.linear(x)


def get_inputs():
    return [torch.randn(1, FEATURES)]


def get_init_inputs():
    return [FEATURES, OUTPUTS]
