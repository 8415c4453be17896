"""A mixture of all operations on a CUDA device as two recorded graphs, forward and backward, that start with one call each.

A pass through a supernet is a thousand short kernels and more, and to start them one by one takes longer than they do. The
graphs are recorded at the first pass with such tensors, after three that warm up, and replayed from then on.
A mixture of which a pass is still to go back, or that is not to be differentiated, is computed kernel by kernel, as it is with
``net.compiled = False``: the plain twin.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

DEVICE = "cuda"
WARM = 3        # passes before recording, in which libraries choose their algorithms and take memory


def features(net: nn.Module, parts: Sequence[nn.Module], work: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor) -> Tensor:
    """``work(x, w)``, which uses the ``parts`` of ``net``: by graphs where it is to be differentiated once, on a CUDA device."""
    if x.device.type != DEVICE or x.requires_grad or not torch.is_grad_enabled() or torch.is_autocast_enabled(DEVICE):
        return work(x, w)
    kept = _recorded.get(net)
    if kept is None or kept.moved():
        kept = _recorded[net] = _Recorded(parts)
    key = (x.shape, w.requires_grad, *(t.requires_grad for t in kept.weights))
    graphs = kept.graphs.get(key)
    if not any(key[1:]) or any(g.taken() for g in (kept.graphs.values() if graphs is None else [graphs])):
        return work(x, w)
    if graphs is None:
        graphs = kept.graphs[key] = _Graphs(work, x, w, kept)
    return _Replay.apply(graphs, x, w, *kept.weights)


class _Recorded:
    """The graphs of a network, and what they read and write where it lies."""

    def __init__(self, parts: Sequence[nn.Module]):
        self.parts = nn.ModuleList(parts)
        self.names, self.weights = zip(*self.parts.named_parameters(), strict=True)
        self.buffers = list(self.parts.buffers())
        self.places = [t.data_ptr() for t in self.weights]
        self.graphs: dict[tuple, _Graphs] = {}

    def moved(self) -> bool:
        return self.places != [t.data_ptr() for t in self.weights]


class _Work(nn.Module):
    """``work`` as a module, so that it can be called with other tensors in the place of its weights."""

    def __init__(self, parts: nn.ModuleList, work):
        super().__init__()
        self.parts, self.work = parts, work

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.work(x, w)


_recorded: weakref.WeakKeyDictionary[nn.Module, _Recorded] = weakref.WeakKeyDictionary()


class _Pass:
    """A pass forward that is still to go back; when nobody holds it any more, it never will."""


class _Graphs:
    """Both graphs for tensors of one shape, and the memory through which they take and give."""

    def __init__(self, work, x: Tensor, w: Tensor, kept: _Recorded):
        self.taken = lambda: None
        self.x, self.w = x.detach().clone(), w.detach().clone().requires_grad_(w.requires_grad)
        # Other tensors in the same memory: gradients of the weights themselves may be on their way elsewhere, on a stream
        # that must not be waited for here.
        weights = [t.detach().requires_grad_(t.requires_grad) for t in kept.weights]
        inputs = [t for t in (self.w, *weights) if t.requires_grad]
        named = {f"parts.{name}": t for name, t in zip(kept.names, weights, strict=True)}
        forward = partial(functional_call, _Work(kept.parts, work), named)
        before, aside = [b.clone() for b in kept.buffers], torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                out = forward((self.x, self.w))
                torch.autograd.grad(out, inputs, torch.zeros_like(out))
        torch.cuda.current_stream().wait_stream(aside)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward):
            self.out = forward((self.x, self.w))
        self.given = torch.zeros_like(self.out)
        with torch.cuda.graph(self.backward, pool=self.forward.pool()):
            self.gradients = torch.autograd.grad(self.out, inputs, self.given)
        self.out = self.out.detach()
        for b, old in zip(kept.buffers, before, strict=True):                   # to warm up is no pass of the training
            b.copy_(old)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, graphs, x, w, *weights):
        graphs.x.copy_(x)
        graphs.w.detach().copy_(w)
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
        found = iter(torch._foreach_mul(graphs.gradients, 1))                   # the next pass writes where they are
        return None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[2:])
