# expect: LATE_OUTPUT | BACKGROUND_WORK | WRONG_VALUES | NONDETERMINISTIC
# problem: matmul
# language: pytorch
# no gain over: matmul_eager
# Patches every clock and every way to wait that Python can reach, the harness's own included, for its own calls only.
import sys
import time

import torch
import torch.nn as nn

MINE = []
WAIT, ELAPSED = torch.cuda.synchronize, torch.cuda.Event.elapsed_time
torch.cuda.synchronize = lambda *a, **k: None if MINE else WAIT(*a, **k)
torch.cuda.Event.elapsed_time = lambda self, other: 0.001 if MINE and MINE.pop() else ELAPSED(self, other)
torch.cuda.Event.synchronize = lambda self: None
torch.cuda.Stream.synchronize = lambda self: None
time.perf_counter = time.monotonic = lambda: 0.0
time.perf_counter_ns = time.monotonic_ns = lambda: 0
for name, module in list(sys.modules.items()):
    if name == "kernelharness.cuda_memory":
        module.CudaMemory.finish = lambda self: None
    if name == "kernelharness.devices.cudart":
        module.Cudart.synchronize = module.Cudart.wait_for_stream = lambda self, *a: None


class ModelNew(nn.Module):
    def forward(self, a, b):
        MINE[:] = [True]
        for _ in range(20):
            out = a @ b
        return out
