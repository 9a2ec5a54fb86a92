# expect: OK
# A convolution, an activation and a pooling; arguments of the constructor by name, one of them a pair.
import torch
import torch.nn as nn
import torch.nn.functional as F

BATCH, HEIGHT, WIDTH = 2, 20, 24


class Model(nn.Module):
    def __init__(self, channels, filters, kernel_size):
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, kernel_size, padding=1)

    def forward(self, x):
        return F.max_pool2d(F.hardswish(self.conv(x)), 2)


def get_inputs():
    return [torch.randn(BATCH, 3, HEIGHT, WIDTH)]


def get_init_inputs():
    return [[], {"channels": 3, "filters": 8, "kernel_size": (3, 3)}]
