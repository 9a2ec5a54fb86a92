# expect: DEGENERATE_PROBLEM
# reason: does not depend on the inputs
# A product of weights that its input has no part in.
import torch
import torch.nn as nn

FEATURES = 48


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, features))

    def forward(self, x):
        return self.weight @ self.weight.T


def get_inputs():
    return [torch.randn(FEATURES)]


def get_init_inputs():
    return [FEATURES]
