# expect: OK
# item: 2
# problem: rmsnorm
# language: triton
# Tunes itself once per shape and keeps what it found.
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.autotune(configs=[triton.Config({}, num_warps=w) for w in (4, 8, 16)], key=["columns"])
@triton.jit
def _rows(x, weight, out, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < columns
    values = tl.load(x + row * columns + offsets, mask=mask, other=0.0)
    scale = tl.rsqrt(tl.sum(values * values) / columns + eps)
    tl.store(out + row * columns + offsets, values * scale * tl.load(weight + offsets, mask=mask), mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        out = torch.empty_like(x)
        rows, columns = x.shape
        _rows[(rows,)](x, self.weight, out, columns, self.eps, BLOCK=triton.next_power_of_2(columns))
        return out
