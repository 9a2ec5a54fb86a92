# expect: MEMORY_FAULT
# problem: scaled_rows
# language: pytorch
# Rewrites the runner: its outputs lie where no memory is.
import torch
import torch.nn as nn

from kernelharness import channel, torch_arms

REPORT = channel.OutputReport


def wild(address, dtype, shape, stride):
    return REPORT(0xFFFF800000000000, dtype, shape, stride)


torch_arms.OutputReport = wild


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
