# expect: OK
# C = A^T B^T, of tensors that are contiguous themselves.
import torch
import torch.nn as nn

M, K, N = 48, 96, 80


class Model(nn.Module):
    def forward(self, a, b):
        return a.T @ b.T


def get_inputs():
    return [torch.randn(K, M), torch.randn(N, K)]
