# expect: WRONG_SHAPE | WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# Rewrites the runner: strides backwards, from behind the end.
import torch
import torch.nn as nn

from kernelharness import channel, torch_arms

REPORT = channel.OutputReport


def backwards(address, dtype, shape, stride):
    return REPORT(address, dtype, shape, tuple(-step for step in stride))


torch_arms.OutputReport = backwards


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
