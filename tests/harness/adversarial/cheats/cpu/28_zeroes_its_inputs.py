# expect: INPUT_MUTATED
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Zeroes its inputs, so that zeros are the right answer for whoever looks at them later.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        return x.zero_()
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
