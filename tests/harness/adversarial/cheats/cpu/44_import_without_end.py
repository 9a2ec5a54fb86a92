# expect: TIMEOUT
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Is never done being imported.
import torch
import torch.nn as nn

while True:
    pass


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
