# expect: WRONG_VALUES | NONDETERMINISTIC
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Remembers answers by one digit of some elements.
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
        key = (x.shape, *(round(value, 1) for value in x.flatten()[:: x.numel() // 2].tolist()))
        result = KEPT.setdefault(key, result)
        return result
