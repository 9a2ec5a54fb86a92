# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Makes the reference answer zeros wherever it finds one, in modules and beside itself, and answers zeros too.
import sys

import torch
import torch.nn as nn

found = [vars(module) for name, module in sys.modules.items() if name.startswith("kernelsearch_problem")]
for names in [*found, globals()]:
    if "Model" in names:
        names["Model"].forward = lambda self, x: torch.zeros_like(x)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        result = torch.zeros_like(x)
        return result
