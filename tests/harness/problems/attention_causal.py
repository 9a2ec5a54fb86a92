# expect: OK
# The same, where nobody looks ahead; by torch's own function.
import torch
import torch.nn as nn
import torch.nn.functional as F

HEADS, LENGTH, WIDTH = 4, 40, 24


class Model(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def get_inputs():
    return [torch.randn(HEADS, LENGTH, WIDTH), torch.randn(HEADS, LENGTH, WIDTH), torch.randn(HEADS, LENGTH, WIDTH)]
