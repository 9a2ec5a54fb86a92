# expect: WRONG_SHAPE
# problem: scaled_rows
# language: pytorch
# Elements so far from each other that reading them is a denial of service.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        wide = torch.empty(x.shape[0], x.shape[1], 4096)
        result = wide[..., 0].copy_(result)
        return result
