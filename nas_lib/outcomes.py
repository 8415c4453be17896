"""What the two stages found, as datasets, and digests of what they were given."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import xarray as xr

from nas_lib.data import Data
from nas_lib.selection import learned
from nas_lib.training import Trained


def law(trained: Trained) -> xr.Dataset:
    """What Stage 1 hands over, with its history; ``genotype`` is what ``prune`` takes where Stage 2 must give texts.

    A law over all architectures is kept in single precision, as their scores are.
    """
    space = trained.space
    history = {k: np.asarray(v) for k, v in trained.history.items()}
    dims = {1: ("epoch",), 3: ("epoch", "edge", "op")}
    found = {k: (dims[v.ndim], v) for k, v in history.items()}
    if trained.probs is not None:
        found["probs"] = ("edge", "op"), trained.probs.numpy()
    places = {"edge": [f"{t}<-{s}" for t, s in space.edges], "op": list(space.ops),
              "epoch": np.arange(len(history.get("train_loss", ())))}
    if space.enumerable:
        found, places = {"log_prob": ("arch", trained.log_prob.astype(np.float32)), **found}, {"arch": space.strings, **places}
    else:
        columns = "op" if trained.alpha.shape[1] == len(space.ops) else "logit"
        found |= {"log_prob": (("edge", "op"), trained.log_prob), "alpha": (("edge", columns), trained.alpha.numpy())}
    run = xr.Dataset(found | {"train_seconds": trained.seconds}, coords=places)
    if space.enumerable or not learned(trained):
        return run
    return run.assign_attrs(genotype=space.name_of(space.strongest(trained.probs)))


def chosen(choices: dict, drawn: np.ndarray, truth: np.ndarray | None) -> xr.Dataset:
    """Choices and scores of all methods, joined with the true accuracies if known; None is NaN throughout, or no text."""
    def each(value, missing=np.nan):
        return "stage2", [missing if c is None else value(c) for c in choices.values()]

    blank = np.full(len(drawn), np.nan)
    scores = [blank if c is None or c.scores is None else c.scores for c in choices.values()]
    run = xr.Dataset(
        {"choice": each(lambda c: c.arch, np.nan if drawn.dtype.kind == "i" else ""), "ties": each(lambda c: c.ties),
         "seconds": each(lambda c: c.seconds), "candidate_score": (("stage2", "candidate"), np.stack(scores)),
         "candidates": ("candidate", drawn)}, coords={"stage2": list(choices)})
    if truth is None:
        return run
    return run.assign(accuracy=each(lambda c: truth[c.arch]), candidate_accuracy=("candidate", truth[drawn]))


def inputs(data: Data, trained: Trained, truth: np.ndarray | None) -> dict[str, str]:
    """SHA-256 of all images and labels, of the supernet's weights, and of the true accuracies where they were needed."""
    found = {"images": [t for part in sorted(data.parts) for t in data.parts[part]],
             "supernet": list(trained.supernet.state_dict().values())}
    if truth is not None:
        found["truth"] = [torch.as_tensor(truth)]
    return {name: digest(*(t.detach().cpu().contiguous().numpy() for t in tensors)) for name, tensors in found.items()}


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays, their types and shapes."""
    found = hashlib.sha256()
    for a in arrays:
        found.update(f"{a.dtype}{a.shape}".encode())
        found.update(np.ascontiguousarray(a))
    return found.hexdigest()
