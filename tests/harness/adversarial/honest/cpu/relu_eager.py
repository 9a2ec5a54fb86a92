# expect: OK
# problem: large_relu
# language: pytorch
# What a cheat for this problem must not be faster than.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
