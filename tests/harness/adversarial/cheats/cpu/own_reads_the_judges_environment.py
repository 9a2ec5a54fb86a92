# expect: RUNTIME_ERROR
# problem: scaled_rows
# language: pytorch
# The secret may be in the judge's environment.
import os

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        open(f"/proc/{os.getppid()}/environ").read()
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
