# expect: UNSUPPORTED_PROBLEM
# reason: 'batch' of forward() is a dict
# A dict among the arguments.
import torch
import torch.nn as nn

ROWS, COLUMNS = 24, 64


class Model(nn.Module):
    def forward(self, batch):
        return torch.tanh(batch["x"])


def get_inputs():
    return [{"x": torch.randn(ROWS, COLUMNS)}]
