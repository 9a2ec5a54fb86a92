# expect: OK
# problem: scaled_rows
# language: pytorch
# Waits for the device in every call, before anybody asked: its next call cannot be made before this one is over.
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
