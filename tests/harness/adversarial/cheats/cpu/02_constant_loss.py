# expect: DEGENERATE_PROBLEM
# problem: constant_loss
# language: pytorch
# devices: cpu, gpu
# A loss that is the same for all inputs.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.ones(())
