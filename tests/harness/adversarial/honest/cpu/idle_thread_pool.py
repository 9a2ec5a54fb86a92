# expect: OK
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# item: 11
# A pool of threads that wait for work between calls.
import concurrent.futures

import torch
import torch.nn as nn

POOL = concurrent.futures.ThreadPoolExecutor(2)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        rows = list(POOL.map(torch.Tensor.square, x.split(32)))
        assert len(rows) > 1
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
