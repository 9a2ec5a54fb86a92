# expect: OK
# Dropout that is off: the file says eval().
import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.dropout = nn.Dropout(rate)
        self.eval()

    def forward(self, x):
        return torch.tanh(self.dropout(x))


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]


def get_init_inputs():
    return [0.3]
