"""Scores as a ranking takes them down: what is noted beside them, blocks that fit into memory, and scores that are none."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def asked(top: int, correct: bool, archs: int, images: int) -> dict[str, np.ndarray]:
    """What ``accuracy`` is to find beside accuracy and loss, to be filled in.

    With ``top`` k > 1 the number of images whose class is among the k largest logits, ``top<k> [arch]``; if ``correct``,
    which are classified rightly, ``correct [arch, image]``.
    """
    wanted = {f"top{top}": np.zeros(archs)} if top > 1 else {}
    return wanted | ({"correct": np.zeros((archs, images), bool)} if correct else {})


def note(more: dict[str, np.ndarray], row, out: Tensor, y: Tensor, seen: int) -> int:
    """Enter the logits ``out [..., B, classes]`` of architecture ``row`` in ``more``; returns how many images were ``seen``."""
    for name, values in more.items():
        if name == "correct":
            values[row, seen:seen + len(y)] = (out.argmax(-1) == y).cpu().numpy()
        else:
            best = out.topk(min(int(name[3:]), out.shape[-1]), -1).indices
            values[row] += (best == y[:, None]).any(-1).sum(-1).cpu().numpy()
    return seen + len(y)


class RankingError(RuntimeError):
    """Scores that are none; the message names the remedy."""


class ConstantScore(ValueError):
    """All got the same score: there is nothing to order or to select by."""


def fitting(evaluate: Callable, ids: np.ndarray, size: int) -> tuple[list[np.ndarray], int]:
    """The results of ``evaluate`` for ``ids``, ``size`` of them together, or half as many as often as GPU memory does
    not suffice, with a warning; and how many that were in the end."""
    found, at = [], 0
    while at < len(ids):
        try:
            found.append(evaluate(ids[at:at + size]))
            at += size
            continue
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise RankingError("rank: out of GPU memory with a block of one architecture: lower batch") from error
        size = max(1, min(size, len(ids)) // 2)         # out of the handler, which holds on to what is in memory
        warnings.warn(f"out of GPU memory: block is lowered to {size} architectures; the scores are the same", stacklevel=3)
        torch.cuda.empty_cache()
    return [np.concatenate(parts) for parts in zip(*found, strict=True)], size


def numbers(loss: np.ndarray, names: np.ndarray, bn: str) -> None:
    """Raise RankingError if a ``loss`` of the architectures ``names`` is no number."""
    if (faulty := np.isnan(loss)).any():
        raise RankingError(f"rank: {names[faulty][0]} has a loss that is no number under {bn} statistics, so weights or images "
                           "hold some; train with a lower learning rate")


def telling(score: np.ndarray, bn: str) -> None:
    """Whether scores tell any two architectures apart; under running statistics, the published rule, a warning says not."""
    if len(score) > 1 and (score == score[0]).all():
        fault = f"rank: all {len(score):,} different networks score {score[0]:g} under {bn} statistics"
        if bn != "running":
            raise ConstantScore(f"{fault}; check the images and how long the supernet was trained")
        warnings.warn(fault, stacklevel=3)
