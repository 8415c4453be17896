"""Stage 2: from what Stage 1 hands over to one architecture. The benchmark is not reachable from here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nas_lib.data import Data
from nas_lib.training import Trained


@dataclass(frozen=True)
class Choice:
    """One selected architecture."""

    arch: int                           # benchmark index
    ties: int = 1                       # different candidates that share the best score
    scores: np.ndarray | None = None    # [candidate], in the order of the draw; NaN: no score
    seconds: float = 0.0


class NotApplicable(ValueError):
    """The method cannot work on this supernet; the message is the reason."""


class ConstantScore(ValueError):
    """Every candidate got the same score: there is nothing to select by."""


Selector = Callable[[Trained, Data, np.ndarray, int], Choice]


def best_of(score: Callable) -> Selector:
    """The rule "score every candidate, take the best, the first drawn among equals".

    ``score(trained, archs [n, edge], data, seed) -> [n]``, high is good, NaN is passed over. Each
    different candidate is scored once. Raises ConstantScore if several different networks are among
    the candidates and all score alike.
    """

    def select(trained: Trained, data: Data, candidates: np.ndarray, seed: int) -> Choice:
        start = time.perf_counter()
        unique, inverse = np.unique(candidates, return_inverse=True)
        values = np.asarray(score(trained, trained.space.archs[unique], data, seed), dtype=np.float64)
        known = ~np.isnan(values)
        if not known.any():
            raise ConstantScore(f"{score.__module__}: none of {len(unique)} candidates could be scored")
        networks = trained.space.classes("weights")[unique[known]]
        if len(set(networks)) > 1 and np.ptp(values[known]) == 0:
            raise ConstantScore(
                f"{score.__module__}: {len(set(networks))} different networks all score "
                f"{values[known][0]:g}; check the batch-norm rule and the images")
        scores = values[inverse]
        best = int(np.nanargmax(scores))
        return Choice(int(candidates[best]), int((values == scores[best]).sum()), scores,
                      time.perf_counter() - start)

    return select
