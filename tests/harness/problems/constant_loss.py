# expect: DEGENERATE_PROBLEM
# reason: does not depend on the inputs
# A loss of probabilities that add up to one.
import torch
import torch.nn as nn

ROWS, COLUMNS = 32, 16


class Model(nn.Module):
    def forward(self, x):
        return torch.softmax(x, dim=1).sum(dim=1).mean()


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
