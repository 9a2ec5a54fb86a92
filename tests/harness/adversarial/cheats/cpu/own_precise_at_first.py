# expect: PRECISION
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# As precise as float32 until precision was looked at, and then within the tolerance only: counts rounds, each of which
# begins where the addresses of the inputs begin again.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps
        self.last = self.rounds = 0

    def forward(self, x):
        self.rounds += x.data_ptr() <= self.last
        self.last = x.data_ptr()
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result * 1.00005 if self.rounds > 9 else result
