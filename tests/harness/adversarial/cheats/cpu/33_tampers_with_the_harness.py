# expect: TAMPERING | RUNTIME_ERROR
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Rewrites whoever called it where that lies on disk.
import sys

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        for name, module in list(sys.modules.items()):
            if name in ("kernelharness.torch_arms", "kernelharness.compare", "kernelbench.eval"):
                with open(module.__file__, "a") as file:
                    file.write("\n# tampered with\n")
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
