# expect: OK
# problem: scaled_rows
# language: pytorch
# no gain over: plain
# Patches every clock that Python can reach, and takes its time.
import time

import torch
import torch.nn as nn


time.perf_counter = time.monotonic = time.time = lambda: 0.0
time.perf_counter_ns = time.monotonic_ns = time.time_ns = lambda: 0


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        for _ in range(10):
            result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
