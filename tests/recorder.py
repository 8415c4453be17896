"""CUDA graphs, pretended on the CPU: what is computed while one is recorded is written down, and computed again into the same memory."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph:
    """Stands for ``torch.cuda.CUDAGraph``; ``replays`` counts those of all."""

    replays = 0

    def __init__(self):
        self.calls = []

    def pool(self):
        return None

    @torch.no_grad()
    def replay(self):
        Graph.replays += 1
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:                                # it shows the same memory next time
            self.graph.calls.append((func, args, kwargs or {}, out))
        return out


@contextlib.contextmanager
def recording(graph, pool=None):
    """Stands for ``torch.cuda.graph``, under which nothing is computed: here it is, and then made NaN where it is new."""
    with _Recording(graph):
        yield
    for _, args, kwargs, out in graph.calls:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.is_floating_point() and t.untyped_storage().data_ptr() not in given:
                t.data.fill_(torch.nan)                     # by ``data``: the way back must not see a change


class _Stream:
    def wait_stream(self, other):
        """There is one stream only."""


def pretend(monkeypatch) -> None:
    """Let ``graphed`` record and replay on the CPU."""
    from nas_lib import graphed

    monkeypatch.setattr(graphed, "DEVICE", "cpu")
    for name, value in {"CUDAGraph": Graph, "graph": recording, "Stream": _Stream, "current_stream": _Stream,
                        "stream": lambda stream: contextlib.nullcontext()}.items():
        monkeypatch.setattr(torch.cuda, name, value)
