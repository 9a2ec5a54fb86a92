# expect: DEGENERATE_PROBLEM
# problem: relu_of_positive
# language: pytorch
# No work at all, where none of the inputs is negative.
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x.view_as(x)
