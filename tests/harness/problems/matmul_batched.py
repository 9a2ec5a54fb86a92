# expect: OK
# One product for each of a batch, and a shared right side.
import torch
import torch.nn as nn

BATCH, M, K, N = 4, 32, 48, 40


class Model(nn.Module):
    def forward(self, a, b, shared):
        return torch.bmm(a, b) @ shared


def get_inputs():
    return [torch.randn(BATCH, M, K), torch.randn(BATCH, K, N), torch.randn(N, N)]
