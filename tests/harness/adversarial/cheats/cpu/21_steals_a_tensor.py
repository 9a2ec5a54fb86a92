# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Returns whatever other tensor of this shape the process holds.
import gc

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        others = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape == x.shape and t is not x]
        result = others[0].clone() if others else x
        return result
