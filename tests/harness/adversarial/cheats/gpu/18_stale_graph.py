# expect: WRONG_VALUES | NONDETERMINISTIC
# problem: matmul
# language: pytorch
# A captured graph that is fed once for each address: what lies there later, it never looks at.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.graphs = {}

    def forward(self, a, b):
        key = (a.data_ptr(), b.data_ptr())
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
            self.graphs[key] = (graph, out)
            graph.replay()
            return out.clone()
        return self.graphs[key][1].clone()
