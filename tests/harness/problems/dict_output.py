# expect: UNSUPPORTED_PROBLEM
# reason: is a dict
# Outputs by name.
import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def forward(self, x):
        return {"y": torch.tanh(x)}


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
