# expect: OK
# Smaller than what asking for it costs: a wrong plan of rounds shows here.
import torch
import torch.nn as nn

COUNT = 64


class Model(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x)


def get_inputs():
    return [torch.randn(COUNT)]
