# expect: OK
# C = A B.
import torch
import torch.nn as nn

M, K, N = 64, 96, 80


class Model(nn.Module):
    def forward(self, a, b):
        return a @ b


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]
