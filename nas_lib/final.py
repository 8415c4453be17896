"""Final evaluation in the DARTS spaces: one architecture trained from scratch, as for the published test errors.

SGD with a cosine learning rate (rules N4 to N7), a second classifier on an inner cell whose loss has a weight, paths
dropped with a probability that grows with the epochs (Larsson et al., FractalNet, ICLR 2017), cutout (DeVries & Taylor,
2017); all training images; the test error after every epoch. The published numbers of S0 and S1 to S4 are the best of all
epochs (defect D17); the last one is the honest one, both are reported.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from nas_lib import results
from nas_lib.checkpoint import Checkpoint, restore
from nas_lib.data import Data
from nas_lib.networks import PairNetwork
from nas_lib.ops import draw_from
from nas_lib.parameters import ParameterError
from nas_lib.spaces import CellPairs, Genotype
from nas_lib.spaces.published_cells import CELLS
from nas_lib.steps import SGD, Clock
from nas_lib.training import TrainingError


@dataclass(frozen=True)
class Recipe:
    """How an architecture is trained. Defaults: Table 1 of "Picking up the pieces" (algorithms, 2).

    Raises ValueError for an impossible value.
    """

    channels: int = 36          # C
    cells: int = 20             # L
    epochs: int = 600
    batch: int = 96
    lr: float = 0.025           # cosine to lr_min, stepped once per epoch
    lr_min: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0           # global L2 norm of the gradient
    auxiliary: float = 0.4      # weight of the second classifier's loss; 0: there is none. Images must have side 32
    drop_path: float = 0.2      # probability after the last epoch, from 0 on in proportion to the epochs
    cutout: int = 16            # side of the blanked square, an option of the data; 0: none
    pool_norm: bool = False     # poolings are followed by a batch norm

    def __post_init__(self):
        least = {"cells": 3, "channels": 1, "epochs": 1, "batch": 1}
        for f in fields(self):
            value, kinds = getattr(self, f.name), {"int": int, "bool": bool}.get(f.type, (int, float))
            if not isinstance(value, kinds) or isinstance(value, bool) != (f.type == "bool"):
                raise ValueError(f"{f.name} = {value!r}: it must be {f.type}")
            if value < least.get(f.name, 0) or f.name == "drop_path" and value >= 1:
                raise ValueError(f"{f.name} = {value!r} is out of range: it must be from {least.get(f.name, 0)}, drop_path below 1")

    def said(self, data: Data) -> str:
        """The size of a training on ``data``, beside the published one, as a sentence."""
        return (f"Chosen cells are trained from scratch in networks of {self.channels} channels and {self.cells} cells, "
                f"{self.epochs} epochs on {len(data.parts['train'][1]):,} images of side {data.shape[-1]} (published: 36, 20, "
                "600; 50,000 of side 32).")


def recipe_of(space: CellPairs) -> Recipe:
    """The published recipe: in S0 other than in S1 to S4 (algorithms, 2)."""
    return Recipe(batch=64, drop_path=0.3, pool_norm=True) if space.pool_norm else Recipe()


def cells_of(space: CellPairs, name: str) -> Genotype:
    """The cells written as ``name``, published under it, as ``darts 10 prune`` of s0, or chosen (``choice_of``).

    Raises ParameterError.
    """
    known, name = CELLS[space.name], choice_of(name)[1] or name
    if not {"/", "("} & set(name) and name not in known:
        raise ParameterError(f"{name!r:.200} is not among the published cells of {space.name}: {', '.join(known)}; or give the "
                             "text of an architecture")
    try:
        return space.genotype(space.parse(known.get(name, name)))
    except ValueError as error:
        raise ParameterError(str(error)) from None


def choice_of(cell: str) -> tuple[dict, str]:
    """``stage1``, ``stage2`` and ``seed`` of what a Stage-2 result chose, and its text; both empty for any other ``cell``.

    The result is named by its file, then the method: ``results/mine/stage2-s1-digits-gdas-s3.nc prune``. Raises
    ValueError if the method chose nothing there, ResultError if there is no such file.
    """
    file, _, method = cell.rpartition(" ")
    if not file.endswith(".nc"):
        return {}, ""
    run = results.read(file)
    choices = dict(zip(run.stage2.values.tolist(), run.choice.values.tolist(), strict=True))
    if not choices.get(method):
        raise ValueError(f"{method} chose nothing in {file}: {run.attrs.get('not_applicable', list(choices))}")
    return {"stage1": run.stage1.item(), "stage2": method, "seed": run.seed.item()}, choices[method]


class Training:
    """One training in progress, and all that must be stored to go on as if never stopped."""

    def __init__(self, cells: Genotype, data: Data, recipe: Recipe, seed: int):
        self.data, self.recipe = data, recipe
        self.order = torch.Generator().manual_seed(seed)                  # of the images
        self.pixels = torch.Generator(data.device).manual_seed(seed)      # augmentation, dropped paths, noise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = PairNetwork(cells, recipe.channels, recipe.cells, data.classes, data.shape[0],
                              recipe.auxiliary > 0, recipe.pool_norm)
        self.net = net.to(data.device)
        draw_from(self.net, self.pixels)
        self.sgd = SGD(self.net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, foreach=True)
        self.epoch, self.seconds = 0, 0.0
        self.history = {"train_loss": [], "error": []}

    def train_epoch(self) -> None:
        """One pass over the training images, then the test error."""
        clock, r, at = Clock(self.data.device), self.recipe, self.epoch / self.recipe.epochs
        x, y = self.data.parts["train"]
        self.net.train().drop_path = r.drop_path * at
        for group in self.sgd.param_groups:
            group["lr"] = r.lr_min + (r.lr - r.lr_min) * (1 + math.cos(math.pi * at)) / 2
        total = torch.zeros((), device=self.data.device)
        for rows in torch.randperm(len(y), generator=self.order).to(y.device).split(r.batch):
            total += self._step(self.data.augment(x[rows], self.pixels), y[rows]) * len(rows)
        self.history["train_loss"].append(total.item() / len(y))
        self.history["error"].append(self._error())
        self.epoch += 1
        self.seconds += clock.seconds()

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on inputs ``x [B, C, H, W]``; the loss of the first classifier."""
        if self.recipe.auxiliary:
            out, second = self.net.both(x)
            loss = F.cross_entropy(out, y)
            whole = loss + self.recipe.auxiliary * F.cross_entropy(second, y)
        else:
            whole = loss = F.cross_entropy(self.net(x), y)
        self.sgd.zero_grad()
        whole.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.sgd.step()
        return loss.detach()

    @torch.no_grad()
    def _error(self, batch=256) -> float:
        """Test error in percent; noise, where there is any, is the same at every look."""
        draw_from(self.net.eval(), torch.Generator(self.data.device).manual_seed(0))
        x, y = self.data.fixed("test")
        wrong = sum((self.net(xb).argmax(1) != yb).sum()
                    for xb, yb in zip(x.split(batch), y.split(batch), strict=True))
        draw_from(self.net, self.pixels)
        return 100 * wrong.item() / len(y)

    def state(self) -> dict:
        """Tensors and plain values from which ``restore`` goes on exactly, the optimizer's among them (D17)."""
        return {"epoch": self.epoch, "seconds": self.seconds, "net": self.net.state_dict(), "sgd": self.sgd.state_dict(),
                "order": self.order.get_state(), "pixels": self.pixels.get_state(), "history": self.history}

    def restore(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        restore(self.sgd, state["sgd"])
        self.order.set_state(state["order"])
        self.pixels.set_state(state["pixels"])
        self.epoch, self.seconds = int(state["epoch"]), float(state["seconds"])
        self.history = {k: [float(v) for v in state["history"][k]] for k in self.history}
        if any(len(v) != self.epoch for v in self.history.values()):
            raise ValueError("its history is of another number of epochs")


def train_final(cells: Genotype, data: Data, recipe: Recipe, seed: int, file=None, progress=True) -> xr.Dataset:
    """Train one architecture: ``error`` (percent of the test images) and ``train_loss``, both (epoch).

    Also ``last`` and ``best`` error and ``seconds``. With ``file`` the state is stored there as epochs end; a stopped
    training called again ends with the same weights, a finished one is only read. Raises TrainingError on a non-finite
    loss.
    """
    run = Training(cells, data, recipe, seed)
    kept = Checkpoint(file, json.dumps([str(cells), asdict(recipe), data.config, seed]))
    kept.load(run.restore)
    bar = tqdm(total=recipe.epochs, initial=run.epoch, desc=f"train s{seed}", unit="epoch", disable=not progress)
    while run.epoch < recipe.epochs:
        run.train_epoch()
        if not math.isfinite(run.history["train_loss"][-1]):
            raise TrainingError(f"the loss is not finite in epoch {run.epoch - 1}; lower the learning rate ({recipe.lr}) "
                                f"or the clip norm ({recipe.clip}); what was stored before is untouched")
        bar.set_postfix(error=f"{run.history['error'][-1]:.2f}")
        bar.update()
        kept.keep(run.state(), run.epoch == recipe.epochs)
    bar.close()
    error = run.history["error"]
    return xr.Dataset({**{k: ("epoch", v) for k, v in run.history.items()}, "last": error[-1], "best": min(error),
                       "seconds": run.seconds}, coords={"epoch": range(1, recipe.epochs + 1)})
