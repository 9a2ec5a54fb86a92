# expect: UNSUPPORTED_PROBLEM
# reason: sparse
# An output that is no dense tensor.
import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x).to_sparse()


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
