# expect: UNSUPPORTED_PROBLEM
# reason: draws random numbers
# The same by Python's own generator.
import random

import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def forward(self, x):
        return torch.tanh(x) * random.random()


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
