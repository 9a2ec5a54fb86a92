# expect: OK
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# item: 3
# Returns the same memory in every call: its results have to be copied.
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
        kept = KEPT.setdefault(x.shape, torch.empty_like(x))
        result = kept.copy_(result)
        return result
