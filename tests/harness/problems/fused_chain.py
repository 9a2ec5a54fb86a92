# expect: OK
# A long chain of small operations between a product and a sum, with numbers from the constructor.
import torch
import torch.nn as nn
import torch.nn.functional as F

BATCH, FEATURES, OUTPUTS = 24, 64, 48


class Model(nn.Module):
    def __init__(self, features, outputs, scale, low, high):
        super().__init__()
        self.linear = nn.Linear(features, outputs)
        self.scale, self.low, self.high = scale, low, high

    def forward(self, x):
        y = torch.clamp(self.linear(x) * self.scale, self.low, self.high)
        y = F.gelu(y) + torch.sigmoid(y) * torch.tanh(y)
        return F.mish(y).sum(dim=1, keepdim=True)


def get_inputs():
    return [torch.randn(BATCH, FEATURES)]


def get_init_inputs():
    return [FEATURES, OUTPUTS, 0.5, -2.0, 3.0]
