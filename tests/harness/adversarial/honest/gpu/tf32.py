# expect: OK
# problem: matmul_tf32
# language: pytorch
# item: 12
# TF32, as the reference: its precision is what precision is measured by.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, a, b):
        torch.backends.cuda.matmul.allow_tf32 = True
        return torch.mm(a, b)
