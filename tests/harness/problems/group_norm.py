# expect: OK
# Normalised over groups of channels.
import torch
import torch.nn as nn

BATCH, CHANNELS, SIZE = 4, 16, 20


class Model(nn.Module):
    def __init__(self, groups, channels):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, x):
        return self.norm(x)


def get_inputs():
    return [torch.randn(BATCH, CHANNELS, SIZE, SIZE)]


def get_init_inputs():
    return [4, CHANNELS]
