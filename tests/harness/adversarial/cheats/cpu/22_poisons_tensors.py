# expect: WRONG_VALUES | INPUT_MUTATED | MEMORY_FAULT | NONDETERMINISTIC
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Fills every other tensor of this shape with NaN, so that all comparisons see two of them.
import gc

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        for tensor in gc.get_objects():
            if isinstance(tensor, torch.Tensor) and tensor.shape == x.shape and tensor is not x:
                tensor.fill_(float("nan"))
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
