# expect: DEGENERATE_PROBLEM
# reason: is input 0 unchanged
# Turned around twice.
import torch
import torch.nn as nn

ROWS, COLUMNS = 32, 48


class Model(nn.Module):
    def forward(self, x):
        return x.T.contiguous().T


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
