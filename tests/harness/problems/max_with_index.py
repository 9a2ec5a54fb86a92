# expect: OK
# A reduction with two results, one of them of integers.
import torch
import torch.nn as nn

ROWS, COLUMNS = 32, 200


class Model(nn.Module):
    def forward(self, x):
        values, index = x.max(dim=1)
        return values, index


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
