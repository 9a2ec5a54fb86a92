# expect: DEGENERATE_PROBLEM
# reason: is input 0 unchanged
# A relu of numbers of which none is negative.
import torch
import torch.nn as nn

ROWS, COLUMNS = 32, 48


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x)


def get_inputs():
    return [torch.rand(ROWS, COLUMNS)]
