# expect: OK
# problem: large_relu
# language: pytorch
# no gain over: relu_eager
# Returns the same memory at first, so that its results are copied after each call, and then makes that copy cost
# nothing: were the baseline's results copied too, only the baseline would pay for it.
import torch
import torch.nn as nn

torch.true_clone = getattr(torch, "true_clone", torch.Tensor.clone)
torch.Tensor.clone = torch.true_clone


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.kept = None

    def forward(self, x):
        self.calls += 1
        result = torch.relu(x)
        if self.calls <= 5:
            if self.kept is None:
                self.kept = torch.empty_like(x)
            return self.kept.copy_(result)
        torch.Tensor.clone = lambda tensor: tensor
        return result
