# expect: RUNTIME_ERROR
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# A tensor that answers True to whatever it is asked.
import torch
import torch.nn as nn


class Yes(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        result = x.as_subclass(Yes)
        return result
