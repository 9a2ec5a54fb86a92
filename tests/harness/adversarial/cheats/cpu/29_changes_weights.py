# expect: WRONG_VALUES | NONDETERMINISTIC
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Changes its weights, which the reference would share were it in this process.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        self.weight.data.mul_(2)
        return result
