# expect: OK
# Rows chosen by integers, and a running table: an embedding with offsets.
import torch
import torch.nn as nn

COUNT, ROWS, WIDTH = 60, 40, 24


class Model(nn.Module):
    def __init__(self, rows, width):
        super().__init__()
        self.table = nn.Embedding(rows, width)

    def forward(self, index, position):
        return self.table(index) + torch.gather(position, 0, index[:, None].expand(-1, position.shape[1]))


def get_inputs():
    return [torch.randint(0, ROWS, (COUNT,)), torch.randn(ROWS, WIDTH)]


def get_init_inputs():
    return [ROWS, WIDTH]
