# expect: OK
# A reduction over the first axis.
import torch
import torch.nn as nn

ROWS, COLUMNS = 150, 48


class Model(nn.Module):
    def forward(self, x):
        return torch.logsumexp(x, dim=0)


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]
