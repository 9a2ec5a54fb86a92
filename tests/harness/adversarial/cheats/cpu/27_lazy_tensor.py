# expect: RUNTIME_ERROR
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# A tensor that computes its values when somebody looks at them, after the clock was stopped.
import torch
import torch.nn as nn


class Lazy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func in (torch.Tensor.clone, torch.equal, torch.allclose, torch.Tensor.contiguous):
                for lazy in (arg for arg in args if isinstance(arg, Lazy)):
                    lazy.copy_(lazy.work())
            return func(*args, **(kwargs or {}))


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.empty_like(x).as_subclass(Lazy)
        result.work = lambda: torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
