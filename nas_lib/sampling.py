"""Laws over a whole space, and draws of candidates from them. Numpy only."""

from __future__ import annotations

import numpy as np


def rank_law(accuracy) -> np.ndarray:
    """The ideal law of the baselines: ``P(r) = rank(r) / sum of ranks``, rank 0 the worst ``[arch]``.

    Ranks by ascending test accuracy, ties by index ("Picking up the pieces", section 4.2; algorithms,
    section 3). Raises ValueError if an accuracy is missing.
    """
    accuracy = np.asarray(accuracy, dtype=np.float64)
    if not np.isfinite(accuracy).all():
        raise ValueError("the ideal law needs the accuracy of every architecture; some are missing")
    rank = np.empty(len(accuracy))
    rank[np.argsort(accuracy, kind="stable")] = np.arange(len(accuracy))
    return rank / rank.sum()


def draw(log_prob, n: int, seed: int) -> np.ndarray:
    """``n`` architectures (indices) drawn with replacement from the law ``log_prob [arch]``."""
    p = np.exp(np.asarray(log_prob, dtype=np.float64))
    return np.random.default_rng(seed).choice(len(p), size=n, p=p / p.sum())
