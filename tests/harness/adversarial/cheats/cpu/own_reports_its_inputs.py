# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# Rewrites the runner: the inputs are reported as outputs, unread.
import torch
import torch.nn as nn

from kernelharness import channel, torch_arms

REPORT = channel.OutputReport
SEEN = []


def elsewhere(address, dtype, shape, stride):
    return REPORT(SEEN[-1], dtype, shape, stride)


torch_arms.OutputReport = elsewhere


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        SEEN.append(x.data_ptr())
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
