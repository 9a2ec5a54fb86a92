# expect: OK
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# item: 5
# Works in place on a copy of its input.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        scale = x.clone().square_().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        return x.clone().mul_(scale).mul_(self.weight)
