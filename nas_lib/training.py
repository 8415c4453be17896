"""Stage 1: train shared weights and, where the method has one, a law over architectures.

Per step: the architecture step (validation half, Adam on alpha), then the weight step (training
half, SGD on the weights), each on its own draw of what the method mixes in. First order: the
gradient of alpha is taken at the current weights (Liu et al., ICLR 2019, with xi = 0).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from nas_lib.checkpoint import load, save
from nas_lib.data import Data
from nas_lib.results import config_hash
from nas_lib.spaces import Space
from nas_lib.supernet import Supernet


class Stage1:
    """What a Stage-1 method says about itself; a method is a frozen dataclass of this type.

    Only ``mix`` must be written. ``alpha`` is whatever ``init`` returned: usually logits
    ``[edge, op]``, one row per edge. ``progress`` runs from 0 to 1 over the training.
    """

    learns = True       # alpha takes gradient steps on the validation half
    trains = True       # the weights are trained at all
    informed = False    # init is shown the benchmark's accuracies: an oracle baseline

    def init(self, space: Space, generator: torch.Generator, truth: np.ndarray | None) -> Tensor | None:
        """Starting alpha: ``1e-3 N(0, 1)`` logits (algorithms, rule N2). None: nothing to know."""
        return 1e-3 * torch.randn(len(space.edges), len(space.ops), generator=generator)

    def mix(self, space: Space, alpha, progress: float, generator: torch.Generator) -> Tensor:
        """What the supernet uses in this pass: weights ``[edge, op]`` or operations ``[edge]``."""
        raise NotImplementedError

    def penalty(self, alpha: Tensor) -> Tensor | float:
        """Added to the loss of the architecture step."""
        return 0.0

    def probs(self, space: Space, alpha) -> Tensor | None:
        """Probabilities ``[edge, op]`` of the law handed over; None if it does not factorise."""
        return alpha.softmax(-1)

    def log_prob(self, space: Space, alpha) -> np.ndarray:
        """log probability of every architecture under the law handed over, ``[arch]``."""
        return space.log_prob(self.probs(space, alpha).double().numpy())


@dataclass(frozen=True)
class Budget:
    """How large the supernet is and how long it trains. Defaults: the paper's (algorithms, 9)."""

    channels: int = 16              # C of the first stage
    cells: int = 5                  # N per stage
    epochs: int = 100
    batch: int = 64
    lr: float = 0.025               # SGD on the weights, cosine to lr_min, stepped once per epoch
    lr_min: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0               # global L2 norm of the weights' gradient
    alpha_lr: float = 3e-4          # Adam on alpha
    alpha_weight_decay: float = 1e-3


@dataclass
class Trained:
    """What Stage 1 hands over."""

    space: Space
    supernet: Supernet
    alpha: Tensor | None            # [edge, op] for most methods
    probs: Tensor | None            # [edge, op]; None if the law does not factorise
    log_prob: np.ndarray            # [arch], the law over all architectures
    history: dict = field(default_factory=dict)   # per epoch: loss, accuracies, probs
    config: dict = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0


class TrainingError(RuntimeError):
    """Training cannot go on; the message names where, and the remedy."""


def configuration(name: str, method: Stage1, space: Space, data: Data, budget: Budget, seed: int) -> dict:
    """Everything that determines a Stage-1 run, as plain values."""
    return {"space": space.name, "data": data.config, "stage1": name, "method": asdict(method),
            "budget": asdict(budget), "seed": seed}


def run_folder(base: Path, config: dict) -> Path:
    """Where a run keeps its state: named by what it is, and by the hash of its configuration."""
    parts = [config["space"], config["data"]["name"], config["stage1"], f"s{config['seed']}"]
    return Path(base) / ("-".join(parts) + "-" + config_hash(config))


def train(name: str, method: Stage1, space: Space, data: Data, budget: Budget, seed: int,
          truth: np.ndarray | None = None, folder: Path | None = None, progress=True) -> Trained:
    """Train a supernet by ``method`` on the device that holds ``data``.

    With ``folder`` the state is stored there after every epoch; a stopped run called again goes on
    from it and ends with the same numbers, and a finished one is only loaded. ``truth [arch]``
    (percent) is shown to informed methods alone. Raises TrainingError on a non-finite loss.
    """
    config = configuration(name, method, space, data, budget, seed)
    run = _Run(method, space, data, budget, seed, truth if method.informed else None)
    purpose = json.dumps(config, sort_keys=True)
    file = None
    if folder is not None:
        file = Path(folder) / "state.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            run.restore(load(file, purpose))
        (file.parent / "config.json").write_text(json.dumps(config, indent=1))
    epochs = budget.epochs if method.trains else 0
    bar = tqdm(total=epochs, initial=run.epoch, desc=f"train {name} s{seed}", unit="epoch",
               disable=not progress)
    while run.epoch < epochs:
        loss = run.train_epoch(epochs)
        bar.set_postfix(loss=f"{loss:.3f}")
        bar.update()
        if file is not None:
            save(file, run.state(), purpose)
    bar.close()
    return run.finished(config)


class _Run:
    """A training in progress: all that must be stored to go on as if never stopped."""

    def __init__(self, method, space, data, budget, seed, truth):
        self.method, self.space, self.data, self.budget, self.seed = method, space, data, budget, seed
        self.choices = torch.Generator().manual_seed(seed)                # order, alpha, samples
        self.pixels = torch.Generator(data.device).manual_seed(seed)      # augmentation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Supernet(space, budget.channels, budget.cells, data.classes, data.shape[0])
        self.net = net.to(data.device)
        self.alpha = method.init(space, self.choices, truth)              # after the layers: N2
        self.learns = method.learns and self.alpha is not None
        self.sgd = torch.optim.SGD(self.net.parameters(), budget.lr, budget.momentum,
                                   weight_decay=budget.weight_decay)
        if self.learns:
            self.alpha.requires_grad_()
            self.adam = torch.optim.Adam([self.alpha], budget.alpha_lr, betas=(0.5, 0.999),
                                         weight_decay=budget.alpha_weight_decay)
        self.train_half, self.valid_half = data.halves()
        self.epoch, self.seconds, self.history = 0, 0.0, {}

    def train_epoch(self, epochs: int) -> float:
        """One pass over the training half; returns its mean loss."""
        clock = _Clock(self.data.device)
        budget, (x, y) = self.budget, self.train_half
        for group in self.sgd.param_groups:
            turn = 1 + math.cos(math.pi * self.epoch / epochs)
            group["lr"] = budget.lr_min + (budget.lr - budget.lr_min) * turn / 2
        self.net.train()
        total = torch.zeros(2, device=self.data.device)                   # loss, correct answers
        order = torch.randperm(len(y), generator=self.choices).to(y.device).split(budget.batch)
        for step, rows in enumerate(order):
            at = (self.epoch + step / len(order)) / epochs
            if self.learns:
                self._architecture_step(at)
            loss, right = self._weight_step(x[rows], y[rows], at)
            total += torch.stack([loss * len(rows), right])
        mean, right = (total / len(y)).tolist()
        if not np.isfinite(mean):
            raise TrainingError(
                f"{type(self.method).__name__}: the loss is not finite in epoch {self.epoch}; lower "
                f"the learning rate ({budget.lr}) or the clip norm ({budget.clip}); the last good "
                "epoch is stored")
        self.epoch += 1
        self._record(train_loss=mean, train_accuracy=100 * right, valid_accuracy=self._validate(epochs))
        self.seconds += clock.seconds()
        return mean

    def _architecture_step(self, at: float):
        x, y = self.valid_half
        rows = torch.randperm(len(y), generator=self.choices)[:self.budget.batch].to(y.device)
        self.net.requires_grad_(False)
        loss, _ = self._loss(x[rows], y[rows], at)
        (loss + self.method.penalty(self.alpha)).backward()
        self.net.requires_grad_(True)
        self.adam.step()
        self.adam.zero_grad()

    def _weight_step(self, x, y, at: float):
        with torch.no_grad():
            w = self._mix(at)
        loss, right = self._loss(x, y, at, w)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.budget.clip)
        self.sgd.step()
        self.sgd.zero_grad()
        return loss.detach(), right

    def _mix(self, at: float) -> Tensor:
        return self.method.mix(self.space, self.alpha, at, self.choices).to(self.data.device)

    def _loss(self, x, y, at: float, w: Tensor | None = None):
        out = self.net(self.data.augment(x, self.pixels), self._mix(at) if w is None else w)
        return F.cross_entropy(out, y), (out.argmax(1) == y).sum().float()

    @torch.no_grad()
    def _validate(self, epochs: int) -> float:
        """Accuracy of what the method mixes, on fixed images, under their own batch statistics."""
        x, y = self.data.fixed("valid half", copies=1)
        before = [b.clone() for b in self.net.buffers()]
        right = 0
        for xb, yb in zip(x.split(256), y.split(256), strict=True):
            right += (self.net(xb, self._mix(self.epoch / epochs)).argmax(1) == yb).sum().item()
        for b, old in zip(self.net.buffers(), before, strict=True):
            b.copy_(old)
        return 100 * right / len(y)

    def _record(self, **values):
        probs = self._probs()
        if probs is not None:
            values["probs_history"] = probs
        for key, value in values.items():
            row = torch.as_tensor(value, dtype=torch.float64)[None]
            self.history[key] = torch.cat([self.history[key], row]) if key in self.history else row

    def _probs(self) -> Tensor | None:
        with torch.no_grad():
            return self.method.probs(self.space, None if self.alpha is None else self.alpha.cpu())

    def state(self) -> dict:
        """Tensors and plain values from which ``restore`` goes on exactly."""
        state = {"epoch": self.epoch, "seconds": self.seconds, "net": self.net.state_dict(),
                 "sgd": self.sgd.state_dict(), "choices": self.choices.get_state(),
                 "pixels": self.pixels.get_state(), "history": self.history}
        if self.alpha is not None:
            state["alpha"] = self.alpha.detach()
        if self.learns:
            state["adam"] = self.adam.state_dict()
        return state

    def restore(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.sgd.load_state_dict(state["sgd"])
        self.choices.set_state(state["choices"])
        self.pixels.set_state(state["pixels"])
        self.epoch, self.seconds, self.history = state["epoch"], state["seconds"], state["history"]
        if self.alpha is not None:
            with torch.no_grad():
                self.alpha.copy_(state["alpha"])
        if self.learns:
            self.adam.load_state_dict(state["adam"])

    def finished(self, config: dict) -> Trained:
        alpha = None if self.alpha is None else self.alpha.detach().cpu()
        return Trained(self.space, self.net, alpha, self._probs(),
                       self.method.log_prob(self.space, alpha),
                       {k: v.numpy() for k, v in self.history.items()}, config, self.seed, self.seconds)


class _Clock:
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
