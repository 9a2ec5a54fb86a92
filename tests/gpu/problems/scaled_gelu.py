# Elementwise forward, a sum over all rows in the gradient of its parameter.
import torch
import torch.nn as nn

ROWS, COLUMNS = 4096, 2048


class Model(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(columns) + 0.5)

    def forward(self, x):
        return nn.functional.gelu(x * self.scale, approximate="tanh")


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]


def get_init_inputs():
    return [COLUMNS]
