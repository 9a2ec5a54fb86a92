# expect: OK
# A normalisation with weights: what most candidates of the suite are kernels for.
import torch
import torch.nn as nn

ROWS, COLUMNS = 96, 256


class Model(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def get_inputs():
    return [torch.rand(ROWS, COLUMNS)]


def get_init_inputs():
    return [COLUMNS, 1e-6]
