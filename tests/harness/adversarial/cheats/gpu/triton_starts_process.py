# expect: TAMPERING | RUNTIME_ERROR
# problem: rmsnorm
# language: triton
# What the warm-up may do, starting a process, it tries while it is timed as well.
import subprocess

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        subprocess.run(["/bin/true"], check=False)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
