# expect: OK
# item: 6
# problem: matmul
# language: pytorch
# A captured graph, fed correctly: inputs are copied in before every replay.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.graphs = {}

    def forward(self, a, b):
        key = (a.shape, b.shape)
        if key not in self.graphs:
            left, right = a.clone(), b.clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                left @ right
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = left @ right
            self.graphs[key] = (graph, left, right, out)
        graph, left, right, out = self.graphs[key]
        left.copy_(a)
        right.copy_(b)
        graph.replay()
        return out
