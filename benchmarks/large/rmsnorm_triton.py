"""A tile of all channels of some places: one read, one write."""

import torch
import torch.nn as nn
import triton
import triton.language as tl

THREADS = 256


@triton.jit
def normalise(x, out, channels, places, eps, WIDE: tl.constexpr, PLACES: tl.constexpr):
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    channel = tl.arange(0, WIDE)
    base = tl.program_id(1).to(tl.int64) * channels * places
    at = base + channel[:, None].to(tl.int64) * places + place[None, :]
    inside = (channel[:, None] < channels) & (place[None, :] < places)
    values = tl.load(x + at, inside, 0.0)
    scale = 1 / tl.sqrt(tl.sum(values * values, 0) / channels + eps)
    tl.store(out + at, values * scale[None, :], inside)


class ModelNew(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        batch, channels, height, width = x.shape
        places = height * width
        size = max(16, THREADS // 4)
        wide = triton.next_power_of_2(channels)
        normalise[(triton.cdiv(places, size), batch)](x, out, channels, places, self.eps, wide, size, num_warps=8)
        return out
