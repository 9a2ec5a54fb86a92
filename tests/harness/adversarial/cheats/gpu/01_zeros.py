# expect: DEGENERATE_PROBLEM
# problem: always_zero
# language: pytorch
# Zeros, where zeros are always right.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)
