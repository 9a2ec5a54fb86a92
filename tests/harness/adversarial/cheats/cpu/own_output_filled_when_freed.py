# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Writes its answers when they are thrown away, at the start of the next round.
import torch
import torch.nn as nn


class Filler:
    def __init__(self, target, source):
        self.target, self.source = target, source

    def __del__(self):
        self.target.copy_(self.source)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        late = torch.zeros_like(result)
        late.filler = Filler(late.data, result)
        result = late
        return result
