# expect: RESOURCE_ABUSE
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Gigabytes of output.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        while True:
            print("x" * 65536)
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
