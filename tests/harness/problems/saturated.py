# expect: DEGENERATE_PROBLEM
# reason: does not depend on the inputs
# A sigmoid of numbers so large that it is one everywhere.
import torch
import torch.nn as nn

ROWS, COLUMNS = 16, 64


class Model(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x * x + 50)


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
