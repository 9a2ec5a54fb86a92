# expect: UNSUPPORTED_PROBLEM
# reason: complex64
# A dtype that no kernel of ours can take.
import torch
import torch.nn as nn

COUNT = 64


class Model(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x)


def get_inputs():
    return [torch.randn(COUNT)]
