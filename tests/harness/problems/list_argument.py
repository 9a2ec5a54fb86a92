# expect: UNSUPPORTED_PROBLEM
# reason: 'parts' of forward() is a list of tensors
# A list of tensors among the arguments.
import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def forward(self, parts):
        return torch.cat(parts)


def get_inputs():
    return [[torch.randn(ROWS, COLUMNS), torch.randn(ROWS, COLUMNS)]]
