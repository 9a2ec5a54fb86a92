# expect: OK
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# no gain over: plain
# One thread, slow math and a reference that works for itself as well: were the reference in this process.
import sys

import torch
import torch.nn as nn


torch.set_num_threads(1)
torch.set_flush_denormal(False)
found = [vars(module) for name, module in sys.modules.items() if name.startswith("kernelsearch_problem")]
for names in [*found, globals()]:
    if "Model" in names:
        names["Model"].forward = lambda self, x, honest=names["Model"].forward: honest(
            self, torch.stack([x] * 100).sort(0).values[0]
        )


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        for _ in range(5):
            result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
