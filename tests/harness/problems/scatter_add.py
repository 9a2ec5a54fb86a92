# expect: OK
# Sums into places that integers say.
import torch
import torch.nn as nn

COUNT, ROWS, WIDTH = 120, 30, 16


class Model(nn.Module):
    def forward(self, x, index):
        return torch.zeros(ROWS, WIDTH).index_add(0, index, x)


def get_inputs():
    return [torch.randn(COUNT, WIDTH), torch.randint(0, ROWS, (COUNT,))]
