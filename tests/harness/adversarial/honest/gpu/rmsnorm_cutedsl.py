# expect: OK
# problem: rmsnorm
# language: cutedsl
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
import torch
import torch.nn as nn
from cutlass.cute.runtime import from_dlpack

THREADS = 256
WARPS = THREADS // 32


@cute.kernel
def _rows(x: cute.Tensor, weight: cute.Tensor, out: cute.Tensor, eps: cutlass.Float32):
    thread, _, _ = cute.arch.thread_idx()
    row, _, _ = cute.arch.block_idx()
    columns = x.shape[1]
    partial = cute.arch.alloc_smem(cutlass.Float32, WARPS)
    sums = cute.make_tensor(partial, cute.make_layout(WARPS))
    total = cutlass.Float32(0.0)
    for column in cutlass.range(thread, columns, THREADS):
        value = x[row, column].to(cutlass.Float32)
        total += value * value
    total = cute.arch.warp_reduction(total, lambda left, right: left + right)
    if thread % 32 == 0:
        sums[thread // 32] = total
    cute.arch.sync_threads()
    total = cutlass.Float32(0.0)
    for warp in cutlass.range_constexpr(WARPS):
        total += sums[warp]
    scale = cute.math.rsqrt(total / columns + eps)
    for column in cutlass.range(thread, columns, THREADS):
        out[row, column] = x[row, column] * scale * weight[column]


@cute.jit
def _launch(x: cute.Tensor, weight: cute.Tensor, out: cute.Tensor, eps: cutlass.Float32, stream: cuda.CUstream):
    _rows(x, weight, out, eps).launch(grid=(x.shape[0], 1, 1), block=(THREADS, 1, 1), stream=stream)


def _view(tensor):
    return from_dlpack(tensor.detach(), assumed_align=16).mark_layout_dynamic()


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps
        self.compiled = None

    def forward(self, x):
        out = torch.empty_like(x)
        stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
        arguments = (_view(x), _view(self.weight), _view(out))
        if self.compiled is None:
            self.compiled = cute.compile(_launch, *arguments, self.eps, stream)
        self.compiled(*arguments, self.eps, stream)
        return out
