# expect: UNSUPPORTED_PROBLEM
# reason: 'scale' of forward() is a random number
# A number that is another one in every input set.
import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def forward(self, x, scale):
        return torch.tanh(x) * scale


def get_inputs():
    return [torch.randn(ROWS, COLUMNS), float(torch.rand(()))]
