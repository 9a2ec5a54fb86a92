# One number for each row, which is minus infinity for every third of them.
import torch
import torch.nn as nn

ROWS, COLUMNS = 262144, 64


class Model(nn.Module):
    def forward(self, x):
        masked = torch.arange(x.shape[0], device=x.device) % 3 == 0
        means = torch.where(masked, float("-inf"), x.mean(dim=-1))
        return means[:, None] + torch.zeros_like(x)


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]


def get_init_inputs():
    return []
