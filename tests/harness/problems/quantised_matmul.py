# expect: OK
# Bytes with a scale for each row and each column.
import torch
import torch.nn as nn

M, K, N = 32, 64, 40


class Model(nn.Module):
    def forward(self, a, b, a_scale, b_scale):
        product = a.to(torch.int32) @ b.to(torch.int32)
        return product.float() * a_scale[:, None] * b_scale


def get_inputs():
    return [
        torch.randint(-128, 128, (M, K), dtype=torch.int8),
        torch.randint(-128, 128, (K, N), dtype=torch.int8),
        torch.rand(M) + 0.1,
        torch.rand(N) + 0.1,
    ]
