# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# Makes the reference answer zeros in every module of the problem that it finds, and answers zeros too.
import sys

import torch
import torch.nn as nn

for name, module in list(sys.modules.items()):
    if name.startswith("kernelsearch_problem"):
        module.Model.forward = lambda self, x: torch.zeros_like(x)
        module.get_inputs = lambda: [torch.zeros(96, 256)]


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        result = torch.zeros_like(x)
        return result
