# expect: OK
# In training mode: the running statistics that it changes are outputs too.
import torch
import torch.nn as nn

BATCH, CHANNELS, SIZE = 8, 12, 16


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(x)


def get_inputs():
    return [torch.randn(BATCH, CHANNELS, SIZE, SIZE)]


def get_init_inputs():
    return [CHANNELS]
