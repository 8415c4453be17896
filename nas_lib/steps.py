"""A Stage-1 training in progress: its two steps, and all that must be stored to go on as if never stopped.

Per step: the architecture step (validation half, Adam on alpha), then the weight step (training half, SGD
on the weights), each on its own draw of what the method mixes in.
"""

from __future__ import annotations

import inspect
import math
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_lib.checkpoint import restore
from nas_lib.networks import PairSupernet
from nas_lib.ops import computing, draw_from
from nas_lib.protocol import CORRECTED
from nas_lib.spaces import CellPairs, Space
from nas_lib.supernet import Supernet
from nas_lib.unrolled import unrolled_gradient

SUPERNETS = {Space: Supernet, CellPairs: PairSupernet}
WATCHED = 1024      # validation images whose accuracy is recorded after every epoch


def _light(optimizer: type) -> type:
    """The same optimizer without its hooks for torch.compile, whose import takes two seconds."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
    return type(optimizer.__name__, (optimizer,),
                {n: torch.no_grad()(inspect.unwrap(getattr(optimizer, n))) for n in names})


SGD, Adam = _light(torch.optim.SGD), _light(torch.optim.Adam)


class Run:
    """See ``training.train`` for the arguments and ``training.Stage1`` for what ``method`` can say."""

    def __init__(self, method, space, data, budget, seed, truth, protocol=CORRECTED):
        self.method, self.space, self.data, self.budget, self.seed = method, space, data, budget, seed
        self.protocol = protocol
        self.choices = torch.Generator().manual_seed(seed)                # order, alpha, samples
        self.pixels = torch.Generator(data.device).manual_seed(seed)      # augmentation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            own = {"auxiliary": method.auxiliary} if space.strided else {}
            net = SUPERNETS[type(space)](space, budget.channels, budget.cells, data.classes, data.shape[0],
                                         partial=self._partial(0.0), **own)
        self.net = net.to(data.device)
        draw_from(self.net, self.pixels)
        self.weights = list(self.net.parameters())
        self.alpha = method.init(space, self.choices, truth)              # after the layers: N2
        self.learns = method.learns and self.alpha is not None
        outside = [m for name, m in net.named_children() if name != "cells"] if protocol.untrained_cells else [net]
        self.sgd = SGD([p for m in outside for p in m.parameters()], budget.lr, budget.momentum,
                       weight_decay=budget.weight_decay, foreach=True)
        self.clipped = [*self.weights]
        if protocol.clip_alpha and self.alpha is not None:
            self.clipped.append(self.alpha.requires_grad_())
        if self.learns:
            self.adam = Adam([self.alpha.requires_grad_()], budget.alpha_lr, betas=(0.5, 0.999),
                             weight_decay=budget.alpha_weight_decay * method.decays)
        self.train_half, self.valid_half = data.halves()
        self.epoch, self.seconds, self.history = 0, 0.0, {}

    def train_epoch(self, epochs: int) -> float:
        """One pass over the training half; returns its mean loss. If that is no number, ``diverged`` is the first such step."""
        clock = Clock(self.data.device)
        at, (x, y), (xv, yv) = self.epoch / epochs, self.train_half, self.valid_half
        self._start_epoch(at)
        total, seen = torch.zeros(2, device=self.data.device), []         # loss, correct answers; the loss of each step
        for rows in torch.randperm(len(y), generator=self.choices).to(y.device).split(self.budget.batch):
            if self.learns:
                shown = torch.randperm(len(yv), generator=self.choices)[:self.budget.batch].to(y.device, non_blocking=True)
                self.architecture_step(xv[shown], yv[shown], at, (x[rows], y[rows]))
            loss, right = self.weight_step(x[rows], y[rows], at)
            total += torch.stack([loss * len(rows), right])
            seen.append(loss)
        mean, right = (total / len(y)).tolist()
        if not math.isfinite(mean):
            self.diverged = int(torch.stack(seen).isfinite().int().argmin())
        self._record(train_loss=mean, train_accuracy=100 * right, valid_accuracy=self._validate(at))
        self.epoch += 1
        self.seconds += clock.seconds()
        return mean

    @torch.no_grad()
    def _start_epoch(self, at: float) -> None:
        """Cosine learning rate (N6), and whatever the method changes at this point of the training."""
        self.net.train()
        for group in self.sgd.param_groups:
            group["lr"] = self.budget.lr_min + (self.budget.lr - self.budget.lr_min) * (1 + math.cos(math.pi * at)) / 2
        if self.learns:
            self.alpha.copy_(self.method.start_epoch(self.alpha, at))
        if (k := self._partial(at)) != self.net.partial:
            moved = self._moved()
            self.net.widen(k)
            self._zero_gradients(moved)
            for w, state in self.sgd.state.items():                       # momentum grows as its weight does
                if (old := state.get("momentum_buffer")) is not None:
                    state["momentum_buffer"] = old.repeat([n // o for n, o in zip(w.shape, old.shape, strict=True)])

    def _partial(self, at: float) -> int:
        return self.budget.partial * self.method.partial_at(at)

    def _moved(self) -> list[bool]:
        return [w.grad is not None for w in self.weights]

    def _zero_gradients(self, moved: list[bool]) -> None:
        """Zero, not None, for what has taken a step, so that decay and momentum go on moving it (N3)."""
        for w, has in zip(self.weights, moved, strict=True):
            w.grad = torch.zeros_like(w) if has else None

    def architecture_step(self, x, y, at: float, train=None):
        """One step of alpha on stored images ``x`` of the validation half.

        ``train``, the images and labels of the next weight step, serves the unrolled gradient alone.
        """
        loss = partial(self._loss, self.data.augment(x, self.pixels), y)

        def objective():
            return self.method.architecture_loss(self.space, self.alpha, at, self.choices, lambda w: loss(w)[0])

        if self.method.unrolled:
            following = partial(self._loss, self.data.augment(train[0], self.pixels), train[1])
            self.alpha.grad = unrolled_gradient(self.alpha, self.sgd, lambda: following(self._mix(at))[0], objective)
        else:
            self._train_weights(self.protocol.untrained_cells)            # D27: there they gather gradient
            value = objective()
            if value is not None:
                value.backward()
            self._train_weights(True)
            if value is None:
                return
        self.adam.step()
        self.adam.zero_grad()

    def _train_weights(self, on: bool):
        for w in self.weights:
            w.requires_grad_(on)

    def weight_step(self, x, y, at: float):
        """One step of the weights on stored images ``x``; returns loss and number of correct answers."""
        self.sgd.zero_grad(self.protocol.drop_gradients)
        x = self.data.augment(x, self.pixels)
        with torch.set_grad_enabled(self.protocol.clip_alpha):
            w = self.method.mix_weights(self.space, self.alpha, at, self.choices)
        passes = [w] if w.is_floating_point() or w.ndim == 1 else list(w)
        seen = []
        for w in passes:
            loss, right = self._loss(x, y, w)
            loss.backward()
            seen.append(torch.stack([loss.detach(), right]))
        torch.nn.utils.clip_grad_norm_(self.clipped, self.budget.clip)
        self.sgd.step()
        if self.alpha is not None:
            self.alpha.grad = None
        return torch.stack(seen).mean(0)

    def _mix(self, at: float, generator: torch.Generator | None = None) -> Tensor:
        return self.method.mix(self.space, self.alpha, at, generator or self.choices)

    def _loss(self, x, y, w: Tensor):
        with computing(self.budget.precision, x.device):
            out = self.net(x, w)
        out = out.float() if out.dtype == torch.bfloat16 else out
        return F.cross_entropy(out, y), (out.argmax(1) == y).sum().float()

    @torch.no_grad()
    def _validate(self, at: float) -> float:
        """Accuracy of what the method mixes, on fixed images, under their own batch statistics.

        What it draws comes from a generator of its own, so that looking does not change what is looked at.
        """
        x, y = self.data.fixed("valid half", first=WATCHED)
        generator, buffers = torch.Generator().manual_seed(self.epoch), list(self.net.buffers())
        draw_from(self.net, torch.Generator(self.data.device).manual_seed(self.epoch))
        before = [b.clone() for b in buffers]
        right = sum(self._loss(xb, yb, self._mix(at, generator))[1]
                    for xb, yb in zip(x.split(self.budget.batch), y.split(self.budget.batch), strict=True))
        for b, old in zip(buffers, before, strict=True):
            b.copy_(old)
        draw_from(self.net, self.pixels)
        return 100 * right.item() / len(y)

    def _record(self, **values):
        probs = self.probs()
        if probs is not None:
            values["probs_history"] = probs
        for key, value in values.items():
            row = torch.as_tensor(value, dtype=torch.float64)[None]
            self.history[key] = torch.cat([self.history[key], row]) if key in self.history else row

    def probs(self) -> Tensor | None:
        """Probabilities ``[edge, op]`` of the law handed over, on the CPU."""
        with torch.no_grad():
            return self.method.probs(self.space, None if self.alpha is None else self.alpha.cpu())

    def state(self) -> dict:
        """Tensors and plain values from which ``restore`` goes on exactly."""
        state = {"epoch": self.epoch, "seconds": self.seconds, "net": self.net.state_dict(),
                 "partial": self.net.partial, "sgd": self.sgd.state_dict(), "choices": self.choices.get_state(),
                 "pixels": self.pixels.get_state(), "history": self.history,
                 "moved": self._moved()}
        if self.alpha is not None:
            state["alpha"] = self.alpha.detach()
        if self.learns:
            state["adam"] = self.adam.state_dict()
        if self.protocol.untrained_cells:
            state["gradients"] = [w.grad for w in self.weights]
        return state

    def restore(self, state: dict) -> None:
        if state["partial"] != self.net.partial:
            self.net.widen(state["partial"])
        self.net.load_state_dict(state["net"])
        restore(self.sgd, state["sgd"])
        self._zero_gradients(state["moved"])
        for w, gradient in zip(self.weights, state.get("gradients", ()), strict=False):
            w.grad = None if gradient is None else gradient.to(w.device)
        self.choices.set_state(state["choices"])
        self.pixels.set_state(state["pixels"])
        self.epoch, self.seconds = int(state["epoch"]), float(state["seconds"])
        self.history = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in state["history"].items()}
        if any(len(v) != self.epoch for v in self.history.values()):
            raise ValueError("its history is of another number of epochs")
        if self.alpha is not None:
            if state["alpha"].shape != self.alpha.shape:
                raise ValueError("its alpha is of another shape")
            with torch.no_grad():
                self.alpha.copy_(state["alpha"])
        if self.learns:
            restore(self.adam, state["adam"])


class Clock:
    """Seconds since the start, with the device's queue drained at both ends."""

    def __init__(self, device: torch.device):
        self.device = device
        self.start = self._now()

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def seconds(self) -> float:
        return self._now() - self.start
