# expect: WRONG_VALUES | NONDETERMINISTIC
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# A thread writes the answer long after it was handed over.
import threading
import time

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        late = torch.zeros_like(result)
        threading.Thread(target=lambda: (time.sleep(0.05), late.copy_(result)), daemon=True).start()
        result = late
        return result
