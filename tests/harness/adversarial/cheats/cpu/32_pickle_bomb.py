# expect: RUNTIME_ERROR
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Something that runs a program when it is unpickled, in place of a tensor.
import os

import torch
import torch.nn as nn


class Bomb(torch.Tensor):
    def __reduce_ex__(self, protocol):
        return os.system, ("true",)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        result = result.as_subclass(Bomb)
        return result
