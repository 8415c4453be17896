"""Stage 1: train shared weights and, where the method has one, a law over architectures.

First order unless a method says otherwise: the gradient of alpha is taken at the current weights (Liu et
al., ICLR 2019, with xi = 0). The steps themselves are in ``steps``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from nas_lib import graphed
from nas_lib.checkpoint import Checkpoint, write
from nas_lib.data import Data
from nas_lib.networks import PairSupernet
from nas_lib.protocol import CORRECTED, Protocol
from nas_lib.results import config_hash
from nas_lib.spaces import CellPairs, SearchSpace
from nas_lib.steps import Run
from nas_lib.supernet import Supernet


class Stage1:
    """What a Stage-1 method says about itself; a method is a frozen dataclass of this type.

    Only ``mix`` must be written; everything else is a hook with a default. ``alpha`` is whatever ``init``
    returned: usually logits ``[edge, op]``, one row per edge. ``progress`` is the fraction e/E of the epochs
    that are over, the same throughout an epoch.
    """

    learns = True       # alpha takes gradient steps on the validation half
    trains = True       # the weights are trained at all
    informed = False    # init is shown the benchmark's accuracies: an oracle baseline
    decays = True       # Adam's weight decay pulls alpha towards 0
    unrolled = False    # alpha's gradient looks one step of the weights ahead
    auxiliary = False   # a skip beside every mixture, weighed by ``beside``
    options: ClassVar[dict] = {}    # the values that a hyper-parameter which is a word can have
    paper: ClassVar[dict] = {}      # hyper-parameters of "Picking up the pieces" that are no defaults here

    def __post_init__(self):
        for name, known in self.options.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}: it can be {', '.join(known)}")

    def init(self, space: SearchSpace, generator: torch.Generator, truth: np.ndarray | None) -> Tensor | None:
        """Starting alpha: ``1e-3 N(0, 1)`` logits (algorithms, rule N2). None: nothing to know."""
        return 1e-3 * torch.randn(len(space.edges), len(space.ops), generator=generator)

    def mix(self, space: SearchSpace, alpha, progress: float, generator: torch.Generator) -> Tensor:
        """What the supernet uses in a pass: weights ``[edge, op]`` or operations ``[edge]``; see ``Supernet``."""
        raise NotImplementedError

    def mix_weights(self, space: SearchSpace, alpha, progress: float, generator: torch.Generator) -> Tensor:
        """What the weight step uses, if not what ``mix`` gives.

        Operations ``[pass, edge]`` are one pass each over the same images, whose gradients add up.
        """
        return self.mix(space, alpha, progress, generator)

    def architecture_loss(self, space: SearchSpace, alpha: Tensor, progress: float, generator: torch.Generator,
                          loss: Callable[[Tensor], Tensor]) -> Tensor | None:
        """What alpha descends: ``loss(w)`` is the cross-entropy of a validation batch. None: alpha rests."""
        return loss(self.mix(space, alpha, progress, generator)) + self.penalty(alpha)

    def penalty(self, alpha: Tensor) -> Tensor | float:
        """Added to the loss of the architecture step."""
        return 0.0

    def start_epoch(self, alpha: Tensor, progress: float) -> Tensor:
        """alpha as an epoch begins with it, for methods that learn one."""
        return alpha

    def partial_at(self, progress: float) -> int:
        """k: operations see one k-th of the channels. It may fall during the training, to a divisor."""
        return 1

    def probs(self, space: SearchSpace, alpha) -> Tensor | None:
        """Probabilities ``[edge, op]`` of the law handed over; None if it does not factorise."""
        return alpha.softmax(-1)

    def joint(self, space: CellPairs, alpha) -> np.ndarray:
        """Where nodes choose among their edges: weights ``[edge, op]`` of an edge with its operation."""
        return space.joint(alpha)

    def log_prob(self, space: SearchSpace, alpha) -> np.ndarray:
        """log probability of every architecture under the law handed over, ``[arch]``.

        In a space too large for that, ``[edge, op]``: of ``joint``, from which ``space.draw`` draws.
        """
        if space.enumerable:
            return space.log_prob(self.probs(space, alpha).double().numpy())
        with np.errstate(divide="ignore"):
            return np.log(space.normalised(self.joint(space, alpha)))


def beside(space: SearchSpace, w: Tensor, beta: float) -> Tensor:
    """Mixing weights ``w [edge, op]``, and ``beta`` for the auxiliary skip of every edge.

    Where no edge changes the side of its maps, that skip is the operation skip_connect. Elsewhere it has weights of
    its own, and a last column.
    """
    if space.strided:
        return torch.cat([w, w.new_full((len(w), 1), beta)], -1)
    auxiliary = torch.zeros(len(space.ops))
    auxiliary[space.ops.index("skip_connect")] = beta
    return w + auxiliary


def take(space: SearchSpace, archs: Tensor, generator: torch.Generator) -> Tensor:
    """``archs [..., edge]`` on random edges as an architecture of the space has them, -1 on the others."""
    taken = space.taken(lambda k: int(torch.randint(k, (), generator=generator)))
    return archs.where(torch.from_numpy(taken), -1)


def uniform(space: SearchSpace, generator: torch.Generator) -> Tensor:
    """An architecture ``[edge]``, each equally likely."""
    edges, choices = space.stay.shape
    drawn = torch.randint(choices, (edges,), generator=generator)
    return take(space, torch.from_numpy(space.stay).gather(1, drawn[:, None])[:, 0], generator)


@dataclass(frozen=True)
class Budget:
    """How large the supernet is and how long it trains. Defaults: the paper's (algorithms, 9)."""

    channels: int = 16              # C of the first stage
    cells: int = 5                  # N per stage; in the DARTS spaces the cells L of the whole
    epochs: int = 100
    batch: int = 64
    lr: float = 0.025               # SGD on the weights, cosine to lr_min, stepped once per epoch
    lr_min: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0               # global L2 norm of the weights' gradient
    alpha_lr: float = 3e-4          # Adam on alpha
    alpha_weight_decay: float = 1e-3
    partial: int = 1                # k: operations see one k-th of the channels, of which a method may take a part
    precision: str = "float32"      # or "bfloat16", in which autocast then computes convolutions (published: none, N1)


@dataclass
class Trained:
    """What Stage 1 hands over."""

    space: SearchSpace
    supernet: Supernet | PairSupernet
    alpha: Tensor | None            # [edge, op] for most methods
    probs: Tensor | None            # [edge, op]; None if the law does not factorise
    log_prob: np.ndarray            # [arch], the law over all architectures, or [edge, op]: see ``Stage1.log_prob``
    history: dict = field(default_factory=dict)   # per epoch: loss, accuracies, probs
    config: dict = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0
    protocol: Protocol = CORRECTED  # by which it was trained and is to be evaluated


class TrainingError(RuntimeError):
    """Training cannot go on; the message names where, and the remedy."""


def configuration(name: str, method: Stage1, space: SearchSpace, data: Data, budget: Budget, seed: int,
                  protocol: Protocol = CORRECTED) -> dict:
    """Everything that determines a Stage-1 run, as plain values; of the protocol what concerns training."""
    flags = ("clip_alpha", "drop_gradients", "untrained_cells")
    size = asdict(budget)
    for key in ("partial", "precision"):        # as before there was a choice, so that runs keep their names
        if size[key] == getattr(Budget, key):
            size.pop(key)
    return {"space": space.name, "data": data.config, "stage1": name, "method": asdict(method),
            "budget": size, "seed": seed, "protocol": {f: getattr(protocol, f) for f in flags}}


def run_folder(base: Path, config: dict) -> Path:
    """Where a run keeps its state: named by what it is, and by the hash of its configuration."""
    parts = [config["space"], config["data"]["name"], config["stage1"], f"s{config['seed']}"]
    return Path(base) / ("-".join(parts) + "-" + config_hash(config))


def train(name: str, method: Stage1, space: SearchSpace, data: Data, budget: Budget, seed: int,
          truth: np.ndarray | None = None, folder: Path | None = None, progress=True,
          protocol: Protocol = CORRECTED) -> Trained:
    """Train a supernet by ``method`` on the device that holds ``data``.

    With ``folder`` the state is stored there as epochs end; a stopped run called again goes on
    from it and ends with the same numbers, and a finished one is only loaded. ``truth [arch]``
    (percent) is shown to informed methods alone. ``protocol`` says by which rules the weights are trained,
    and goes with the result. Raises TrainingError on a non-finite loss and where GPU memory does
    not suffice.
    """
    config = configuration(name, method, space, data, budget, seed, protocol)
    run = Run(method, space, data, budget, seed, truth if method.informed else None, protocol)
    kept = Checkpoint(folder and Path(folder) / "state.pt", json.dumps(config, sort_keys=True))
    kept.load(run.restore)
    if folder is not None:
        write(Path(folder) / "config.json", lambda file: file.write(json.dumps(config, indent=1).encode()))
    epochs = budget.epochs if method.trains else 0
    bar = tqdm(total=epochs, initial=run.epoch, desc=f"train {name} s{seed}", unit="epoch",
               disable=not progress)
    while run.epoch < epochs:
        try:
            loss = run.train_epoch(epochs)
        except torch.OutOfMemoryError as error:
            raise TrainingError(f"{name}: out of GPU memory in epoch {run.epoch}; lower batch ({budget.batch}) or channels "
                                f"({budget.channels}), which is another experiment, or use a larger GPU: it goes on there") from error
        if not math.isfinite(loss):
            raise TrainingError(f"{name}: the loss is not finite in epoch {run.epoch - 1}, step {run.diverged}; lower the "
                                f"learning rate ({budget.lr}) or the clip norm ({budget.clip}); what was stored before is untouched")
        bar.set_postfix(loss=f"{loss:.3f}")
        bar.update()
        kept.keep(run.state(), run.epoch == epochs)
    bar.close()
    graphed.forget(run.net)
    for p in run.net.parameters():
        p.grad = None
    alpha = None if run.alpha is None else run.alpha.detach().cpu()
    return Trained(space, run.net, alpha, run.probs(), method.log_prob(space, alpha),
                   {k: v.numpy() for k, v in run.history.items()}, config, seed, run.seconds, protocol)
