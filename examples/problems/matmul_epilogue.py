"""A small linear layer with its epilogue: x @ W^T + bias, GELU (tanh form), then a residual with a scale."""

import torch
import torch.nn as nn
import torch.nn.functional as F

BATCH = 64
FEATURES_IN = 256
FEATURES_OUT = 384


class Model(nn.Module):
    def __init__(self, features_in: int, features_out: int, residual_scale: float):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)
        self.residual_scale = residual_scale

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return residual * self.residual_scale + F.gelu(self.linear(x), approximate="tanh")


def get_inputs():
    return [torch.randn(BATCH, FEATURES_IN), torch.randn(BATCH, FEATURES_OUT)]


def get_init_inputs():
    return [FEATURES_IN, FEATURES_OUT, 0.5]
