"""Root-mean-square normalisation over channels, 7.5 GB in and 7.5 GB out: the size of KernelBench's level 1."""

import torch
import torch.nn as nn

BATCH, CHANNELS, HEIGHT, WIDTH = 112, 64, 512, 512


class Model(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + self.eps)


def get_inputs():
    return [torch.rand(BATCH, CHANNELS, HEIGHT, WIDTH)]


def get_init_inputs():
    return [1e-5]
