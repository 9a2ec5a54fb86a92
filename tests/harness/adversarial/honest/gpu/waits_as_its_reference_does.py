# expect: OK
# problem: scaled_by_largest
# language: pytorch
# Needs a number on the host in every call, and waits for it, as its reference does.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        low, high = torch.stack(torch.aminmax(x)).tolist()
        return x * (1.0 / max(abs(low), abs(high)))
