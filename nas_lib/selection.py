"""Stage 2: from what Stage 1 hands over to one architecture. The benchmark is not reachable from here."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from nas_lib.data import Data
from nas_lib.proxies import Scorer
from nas_lib.ranking import BATCH, CALIBRATION, accuracy, block_size
from nas_lib.scores import ConstantScore, RankingError, fitting
from nas_lib.training import Trained


@dataclass(frozen=True)
class Choice:
    """One selected architecture."""

    arch: int | str                     # its name in the space: benchmark index, or text
    ties: int = 1                       # different candidates that share the best score
    scores: np.ndarray | None = None    # [candidate], in the order of the draw; NaN: no score
    seconds: float = 0.0


class NotApplicable(ValueError):
    """The method cannot work on this supernet; the message is the reason."""


Selector = Callable[..., Choice]        # (trained, data, candidates, seed), and truth= if it is informed


def best_of(score: Callable, **options) -> Selector:
    """The rule "score every candidate, take the best, the first drawn among equals".

    ``score(trained, archs [n, edge], data, seed, **options) -> [n]``, high is good, NaN is passed over. Each
    different candidate is scored once; where the protocol makes a score depend on the place in the draw (D2,
    D3), every draw is. ``truth [arch]`` is handed on to the score of an informed method. Raises ConstantScore if
    several different networks are among the candidates and all score alike; under running statistics, which
    make that common (D1), it is a warning, and the first drawn wins.
    """

    def select(trained: Trained, data: Data, candidates: np.ndarray, seed: int, **truth) -> Choice:
        start = time.perf_counter()
        protocol = trained.protocol
        if protocol.fresh_batch or protocol.proxy_mode == "first":
            scored, inverse = candidates, slice(None)
        else:
            scored, inverse = np.unique(candidates, return_inverse=True)
        values = score(trained, trained.space.named(scored), data, seed, **truth, **options)
        values = np.asarray(values, dtype=np.float64)
        _check(values, trained.space.networks(scored), score.__module__, protocol.valid_bn == "running")
        scores = values[inverse]
        best = int(np.nanargmax(scores))
        return Choice(candidates[best].item(), len(np.unique(candidates[scores == scores[best]])), scores,
                      time.perf_counter() - start)

    return select


def _check(values: np.ndarray, networks: np.ndarray, name: str, tolerant: bool) -> None:
    """Whether ``values [n]`` of ``networks [n]`` tell any two of them apart."""
    known = ~np.isnan(values)
    if not known.any():
        raise ConstantScore(f"{name}: none of {len(values)} candidates could be scored")
    if np.isposinf(values).any():
        raise RankingError(f"{name}: {np.isposinf(values).sum()} of {len(values)} candidates score infinity; train with a lower "
                           "learning rate, or leave the method out")
    count = len(set(networks[known]))
    if count > 1 and (values[known] == values[known][0]).all():
        fault = f"{name}: {count} different networks all score {values[known][0]:g}"
        if not tolerant:
            raise ConstantScore(f"{fault}; check the batch-norm rule and the images")
        warnings.warn(f"{fault} under running statistics; the first drawn is taken", stacklevel=3)


def learned(trained: Trained) -> bool:
    """Whether Stage 1 hands over a law by edges that prefers some operation."""
    return trained.probs is not None and not bool((trained.probs == trained.probs[:, :1]).all())


def valid_accuracy(trained: Trained, archs: np.ndarray, data: Data, matrices: dict | None = None,
                   precision="float32") -> np.ndarray:
    """Accuracy in percent of ``archs [n, edge]`` on the validation half under the shared weights, ``[n]``.

    Every architecture sees the same fixed images; its batch-norm statistics are re-estimated for it on 20 batches of
    the training half, or follow another rule of the protocol (``valid_bn``). ``matrices`` and
    ``precision`` as in ``ranking.accuracy``. As many are evaluated together as in a ranking, and as memory allows.
    """
    x, y = data.fixed("valid half")
    rule = trained.protocol.valid_bn
    calibration = data.fixed("train half", first=CALIBRATION)[0] if rule == "recalibrate" else None
    evaluate = partial(accuracy, trained.supernet, images=x, labels=y, bn=rule, calibration=calibration,
                       matrices=matrices, precision=precision)
    return fitting(evaluate, np.atleast_2d(archs), block_size(trained.supernet, x, BATCH))[0][0]


def measure(trained: Trained, archs: np.ndarray, data: Data, seed: int, names: Iterable[str],
            batch: int = 64) -> dict[str, np.ndarray]:
    """Zero-cost measures ``names`` (see ``proxies``) of ``archs [n, edge]``, each ``[n]``.

    All are computed with batch norm in train mode on the first ``batch`` fixed images of the training half. The
    protocol may instead put all but the first architecture into eval mode (D2), or draw and augment other images
    for each (D3).
    """
    protocol, (x, y) = trained.protocol, data.fixed("train half")
    stored, labels = data.halves()[0]
    choices = torch.Generator().manual_seed(seed)
    pixels = torch.Generator(data.device).manual_seed(seed)
    first = Scorer(trained.supernet, names, training=True)
    others = Scorer(trained.supernet, names, training=False) if protocol.proxy_mode == "first" else first
    rows = []
    for arch in archs:
        images, targets = x[:batch], y[:batch]
        if protocol.fresh_batch:
            chosen = torch.randperm(len(labels), generator=choices)[:batch].to(data.device)
            images, targets = data.augment(stored[chosen], pixels), labels[chosen]
        rows.append((others if rows else first)(arch, images, targets))
    return {name: np.array([row[name] for row in rows]) for name in first.names}
