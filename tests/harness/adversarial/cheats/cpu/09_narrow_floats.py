# expect: WRONG_VALUES | PRECISION
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Half precision where the problem has float32.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        result = result.half().float()
        return result
