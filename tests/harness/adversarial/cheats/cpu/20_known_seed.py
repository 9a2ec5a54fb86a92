# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Makes the inputs itself, from the seed that everybody uses.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        torch.manual_seed(42)
        x = torch.rand(x.shape, device=x.device)
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
