# expect: TIMING_MISMATCH
# problem: scaled_rows
# language: pytorch
# Waits for the device in every call, which its reference does not: nothing of the next call can be asked ahead of it,
# and what a call takes alone is not to be told from what waiting takes.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        torch.cuda.synchronize()
        return result
