# expect: WRONG_VALUES | NONDETERMINISTIC
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Remembers answers by the identity of the input.
import torch
import torch.nn as nn

KEPT = {}


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        result = KEPT.setdefault(id(x), result)
        return result
