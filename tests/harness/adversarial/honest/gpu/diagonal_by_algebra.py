# expect: OK
# problem: diagonal_product
# language: pytorch
# item: 13
# Scales rows, where the reference multiplies by a matrix of zeros: far more than ten times as fast, and right.
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, d, b):
        return d[:, None] * b
