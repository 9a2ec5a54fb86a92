# expect: TAMPERING | RUNTIME_ERROR
# problem: scaled_rows
# language: pytorch
# devices: cpu, gpu
# Writes a reply, and then a line of the log, to every descriptor that there may be.
import os
import struct

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        for fd in range(256):
            try:
                os.write(fd, struct.pack("<IIq", 2, 0, 5))
                os.write(fd, b'{"type":"bye"}')
            except OSError:
                pass
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return result
