# expect: PRECISION | WRONG_VALUES
# problem: matmul
# language: pytorch
# TF32 where the reference has float32.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, a, b):
        torch.backends.cuda.matmul.allow_tf32 = True
        return torch.mm(a, b)
