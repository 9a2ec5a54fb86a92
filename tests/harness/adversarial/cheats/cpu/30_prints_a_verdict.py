# expect: RUNTIME_ERROR
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Prints the line that a judge would write, and leaves.
import os

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        print('{"type":"result","candidate":"30_prints_a_verdict","verdict":"OK","stage":"timing"}', flush=True)
        print('{"type":"bye"}', flush=True)
        os._exit(0)
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
