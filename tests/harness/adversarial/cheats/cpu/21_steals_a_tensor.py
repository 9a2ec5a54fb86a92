# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Returns whatever tensor of this shape the process holds that it did not make itself.
import gc

import torch
import torch.nn as nn

MINE = []


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        others = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape == x.shape and t is not x]
        others = [t for t in others if not any(t is mine for mine in MINE)]
        result = others[0].clone() if others else torch.empty_like(x)
        MINE.append(result)
        return result
