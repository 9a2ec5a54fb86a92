# expect: OK
# problem: scaled_rows
# language: pytorch
# A thread that has ended when it returns.
import threading

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        helper = threading.Thread(target=int)
        helper.start()
        helper.join()
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
