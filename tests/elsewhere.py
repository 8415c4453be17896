"""A pretended device: tensors that say they are on ``meta`` and hold numbers all the same.

What is computed on it is what the CPU computes, so that results can be compared. An operation on tensors of both
devices is refused as on a GPU, where code that makes a tensor without saying on which device stops.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default)
INDICES = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)      # may lie on the CPU, as on a GPU


class Far(torch.Tensor):
    """A tensor of the pretended device; ``near`` holds its numbers."""

    @staticmethod
    def __new__(cls, near):
        far = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            layout=near.layout, device=DEVICE, requires_grad=near.requires_grad)
        far.near = near
        return far

    def tolist(self):
        Elsewhere.reads += 1
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of the pretended device")


class Elsewhere(TorchDispatchMode):
    """While it is on, ``device="meta"`` is the pretended device. ``reads`` counts numbers read back from it."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        far = [isinstance(t, Far) for t in tensors]
        if any(t.device == DEVICE for f, t in zip(far, tensors, strict=True) if not f):
            raise RuntimeError(f"{func}: an index that is a list; on a GPU it would be copied there")
        if any(far) and func not in COPIES + INDICES and any(not f and t.ndim for f, t in zip(far, tensors, strict=True)):
            raise RuntimeError(f"{func}: tensors on {DEVICE} and on the CPU")
        Elsewhere.reads += any(far) and func is aten._local_scalar_dense.default
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        there = any(far) if asked is None else torch.device(asked).type == DEVICE.type
        if func is aten.copy_.default:
            there = far[0]
        near = tree_map_only(Far, lambda t: t.near, (args, kwargs))
        out = func(*near[0], **near[1])
        if there:
            out = tree_map_only(torch.Tensor, Far, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if any(far) and there else out


@contextlib.contextmanager
def elsewhere(monkeypatch):
    """The pretended device, with what PyTorch lacks for it: generators, a queue to wait for."""
    real = torch.Generator

    class Generator:
        def __new__(cls, device=None):
            return real()

    with monkeypatch.context() as patch, Elsewhere() as mode:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.accelerator, "synchronize", lambda device=None: None)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield mode
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
