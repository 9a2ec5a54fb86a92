# expect: OK
# problem: masked_row_means
# language: pytorch
# item: 9, 10
# An expanded view, whose rows share one element each, and infinities exactly where the reference has them.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        means = x.mean(dim=-1, keepdim=True)
        means[::3] = float("-inf")
        return means.expand_as(x)
