# expect: OK
# problem: odd_outputs
# language: pytorch
# An expanded view, infinities exactly where the reference has them, and algebra instead of a product: more than ten
# times as fast as the reference, and right.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x, w):
        rows = x.mean(-1, keepdim=True).expand_as(x)
        size = x.shape[1]
        masked = x.masked_fill(torch.arange(size) > torch.arange(x.shape[0])[:, None], float("-inf"))
        return rows, masked, x @ w.sum(-1)
