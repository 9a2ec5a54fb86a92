# expect: OK
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# item: 14
# Prints, catches what it raises, and has the word Stream in it.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        try:
            raise ValueError("no torch.cuda.Stream here")
        except ValueError as error:
            print(error, flush=True)
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
