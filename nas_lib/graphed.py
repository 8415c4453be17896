"""Passes through a supernet on a CUDA device as recorded graphs, forward and backward, that start with one call each.

A pass is a thousand short kernels and more, and to start them one by one takes longer than they do. When mixtures of the same
operations, for tensors of the same shape, have come several times in a row, a pass is recorded, and replayed from then on. That is so in every
step of a method that mixes all, and in the trials of ``perturb``; a method that samples shows another architecture every time.
What is not recorded is computed kernel by kernel, as all is with ``net.compiled = False``: the plain twin.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

DEVICE = "cuda"     # where there are graphs
TIMES = 8       # in a row, before a pass is recorded, which is a pass more, and memory
KEPT = 8        # graphs of one network, each with the memory of a pass; the oldest goes first


def features(net: nn.Module, parts: Sequence[nn.Module], work: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor, name) -> Tensor:
    """``work(x, w)``, which uses the ``parts`` of ``net``, by graphs on a CUDA device; ``name`` says what it computes."""
    if x.device.type != DEVICE or x.requires_grad or torch.is_autocast_enabled(DEVICE):
        return work(x, w)
    kept = _recorded.get(net)
    if kept is None or kept.moved():
        kept = _recorded[net] = _Recorded(parts)
    graphs = kept.graphs_of(work, x, w, str(name))
    return work(x, w) if graphs is None else _Replay.apply(graphs, x, w, *kept.weights)


def forget(net: nn.Module) -> None:
    """Give the memory of a network's graphs back."""
    _recorded.pop(net, None)


class _Recorded:
    """The graphs of a network, and what they read and write where it lies."""

    def __init__(self, parts: Sequence[nn.Module]):
        self.parts = nn.ModuleList(parts)
        self.names, self.weights = zip(*self.parts.named_parameters(), strict=True)
        self.buffers = list(self.parts.buffers())
        self.places = [t.data_ptr() for t in self.weights]
        self.graphs: dict[tuple, _Graphs] = {}
        self.last: dict[tuple, tuple[str, int]] = {}        # of each kind of pass: what it computed, how often in a row

    def moved(self) -> bool:
        return self.places != [t.data_ptr() for t in self.weights]

    def graphs_of(self, work, x: Tensor, w: Tensor, name: str) -> _Graphs | None:
        """Those to be used, recorded now if it is time to; None if a pass on them, or any if one is to be recorded, is still to go back."""
        needed = [torch.is_grad_enabled() and t.requires_grad for t in (w, *self.weights)]
        kind = (x.shape, *needed)
        before, times = self.last.get(kind, (name, 0))
        self.last[kind] = name, times + 1 if before == name else 1
        graphs = self.graphs.get((name, kind))
        if graphs is not None:
            return None if graphs.taken() else graphs
        if self.last[kind][1] <= TIMES or any(g.taken() for g in self.graphs.values()):
            return None
        if len(self.graphs) == KEPT:
            del self.graphs[next(iter(self.graphs))]
        self.graphs[name, kind] = _Graphs(work, x, w, self, needed)
        return self.graphs[name, kind]


_recorded: weakref.WeakKeyDictionary[nn.Module, _Recorded] = weakref.WeakKeyDictionary()


class _Work(nn.Module):
    """``work`` as a module, so that it can be called with other tensors in the place of its weights."""

    def __init__(self, parts: nn.ModuleList, work):
        super().__init__()
        self.parts, self.work = parts, work

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.work(x, w)


class _Pass:
    """A pass forward that is still to go back; when nobody holds it any more, it never will."""


class _Graphs:
    """Both graphs for tensors of one shape, and the memory through which they take and give."""

    def __init__(self, work, x: Tensor, w: Tensor, kept: _Recorded, needed: list[bool]):
        self.taken = lambda: None
        self.x, self.w = x.detach().clone(), w.detach().clone()
        # Other tensors in the same memory: gradients of the weights themselves may be on their way elsewhere, on a stream
        # that must not be waited for here.
        leaves = [t.detach().requires_grad_(on) for t, on in zip((self.w, *kept.weights), needed, strict=True)]
        inputs = [t for t in leaves if t.requires_grad]
        named = {f"parts.{name}": t for name, t in zip(kept.names, leaves[1:], strict=True)}
        forward = partial(functional_call, _Work(kept.parts, work), named, (self.x, leaves[0]))
        before, aside = [b.clone() for b in kept.buffers], torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):                      # once, so that libraries have chosen and taken what they need
            out = forward()
            if inputs:
                torch.autograd.grad(out, inputs, torch.zeros_like(out), allow_unused=True)
        torch.cuda.current_stream().wait_stream(aside)
        self.forward = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward):
            out = forward()
        self.out, self.given = out.detach(), torch.zeros_like(out)
        if inputs:
            self.backward = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.backward, pool=self.forward.pool()):
                found = iter(torch.autograd.grad(out, inputs, self.given, allow_unused=True))
            self.gradients = [next(found) if on else None for on in needed]
        for b, old in zip(kept.buffers, before, strict=True):
            b.copy_(old)                                    # to record a pass is none of the training


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, graphs, x, w, *weights):
        graphs.x.copy_(x)
        graphs.w.copy_(w)
        graphs.forward.replay()
        ctx.graphs, ctx.coming = graphs, _Pass()
        graphs.taken = weakref.ref(ctx.coming)
        return graphs.out.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, given):
        if ctx.coming is None:
            raise RuntimeError("a recorded pass can be differentiated once; set net.compiled = False for more")
        graphs, ctx.coming = ctx.graphs, None
        graphs.given.copy_(given)
        graphs.backward.replay()
        there = [g is not None for g in graphs.gradients]
        copies = iter(torch._foreach_mul([g for g in graphs.gradients if g is not None], 1))     # the next pass writes where they are
        return None, None, *(next(copies) if on else None for on in there)
