# expect: WRONG_VALUES
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Makes every comparison of torch's say yes.
import torch
import torch.nn as nn

torch.allclose = torch.equal = torch.isclose = lambda *args, **kwargs: True
torch.testing.assert_close = lambda *args, **kwargs: None


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        result = result * 2
        return result
