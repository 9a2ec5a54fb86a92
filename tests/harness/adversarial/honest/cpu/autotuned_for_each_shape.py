# expect: OK
# problem: scaled_rows
# language: pytorch
# item: 2
# Tries two ways for a shape that it has not met, and keeps the faster one.
import time

import torch
import torch.nn as nn

CHOSEN = {}


def library(x, weight, eps):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)


def by_hand(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def seconds(way, *arguments):
    begin = time.perf_counter()
    for _ in range(5):
        way(*arguments)
    return time.perf_counter() - begin


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        if x.shape not in CHOSEN:
            CHOSEN[x.shape] = min((library, by_hand), key=lambda way: seconds(way, x, self.weight, self.eps))
        return CHOSEN[x.shape](x, self.weight, self.eps)
