# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# The second half of the rows is a copy of the first.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        half = (len(x) + 1) // 2
        result = torch.cat([result[:half], result[:half]])[: len(x)]
        return result
