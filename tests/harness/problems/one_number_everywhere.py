# expect: DEGENERATE_PROBLEM
# reason: does not depend on the inputs
# A mean over so much that only the bias is left.
import torch
import torch.nn as nn

ROWS, COLUMNS = 16, 64


class Model(nn.Module):
    def forward(self, x):
        return 1000.0 + x.mean(dim=0) * 0.01


def get_inputs():
    return [torch.rand(ROWS, COLUMNS)]
