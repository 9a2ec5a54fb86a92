# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Honest for forty calls, then an earlier answer.
import torch
import torch.nn as nn

KEPT = []


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        KEPT.append(result)
        if len(KEPT) > 40:
            result = KEPT[-2]
        return result
