import torch
import torch.nn as nn

BATCH, CHANNELS, SIZE = 32, 64, 112


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.convolution(x))


def get_inputs():
    return [torch.randn(BATCH, CHANNELS, SIZE, SIZE)]


def get_init_inputs():
    return [CHANNELS]
