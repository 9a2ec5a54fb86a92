# expect: OK
# problem: odd_outputs
# language: pytorch
# devices: cpu, gpu
# item: 9, 10, 13
# An expanded view, infinities exactly where the reference has them, and algebra instead of a product: more than ten
# times as fast as the reference, and right.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x, w):
        rows = x.mean(-1, keepdim=True).expand_as(x)
        size = x.shape[1]
        columns, lines = (torch.arange(count, device=x.device) for count in (size, x.shape[0]))
        masked = x.masked_fill(columns > lines[:, None], float("-inf"))
        return rows, masked, x @ w.sum(-1)
