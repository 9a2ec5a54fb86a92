# expect: OK
# A convolution along one axis, with dilation and a bias.
import torch
import torch.nn as nn

BATCH, CHANNELS, FILTERS, LENGTH = 2, 8, 12, 100


class Model(nn.Module):
    def __init__(self, channels, filters, kernel, dilation):
        super().__init__()
        self.conv = nn.Conv1d(channels, filters, kernel, dilation=dilation)

    def forward(self, x):
        return self.conv(x)


def get_inputs():
    return [torch.randn(BATCH, CHANNELS, LENGTH)]


def get_init_inputs():
    return [CHANNELS, FILTERS, 3, 2]
