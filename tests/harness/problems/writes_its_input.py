# expect: UNSUPPORTED_PROBLEM
# reason: writes to its argument 'x'
# An operation in place on its argument.
import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def forward(self, x):
        return x.mul_(2) + 1


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
