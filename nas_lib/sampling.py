"""Laws over a whole space, and draws of candidates from them. Numpy only."""

from __future__ import annotations

import numpy as np


def rank_law(accuracy) -> np.ndarray:
    """The ideal law of the baselines: ``P(r) = rank(r) / sum of ranks``, rank 0 the worst ``[arch]``.

    Ranks by ascending test accuracy, ties by index ("Picking up the pieces", section 4.2; algorithms,
    section 3). Raises ValueError if an accuracy is missing.
    """
    accuracy = _all_known(accuracy)
    rank = np.empty(len(accuracy))
    rank[np.argsort(accuracy, kind="stable")] = np.arange(len(accuracy))
    return rank / rank.sum()


def threshold_law(accuracy) -> np.ndarray:
    """The law that the stored baselines of "Picking up the pieces" were most likely drawn from ``[arch]``.

    Weight 0.01 for an accuracy less than 0.1 points below the best, 0.002 below 0.5, 0.001 below 1, 0.0001
    below 2, else 0; then normalised (algorithms, section 7, D6). Raises ValueError if an accuracy is missing.
    """
    accuracy = _all_known(accuracy)
    gap = accuracy.max() - accuracy
    weight = np.select([gap < 0.1, gap < 0.5, gap < 1, gap < 2], [0.01, 0.002, 0.001, 0.0001], 0.0)
    return weight / weight.sum()


IDEAL = {"rank": rank_law, "threshold": threshold_law}


def _all_known(accuracy) -> np.ndarray:
    accuracy = np.asarray(accuracy, dtype=np.float64)
    if not np.isfinite(accuracy).all():
        raise ValueError("the ideal law needs the accuracy of every architecture; some are missing")
    return accuracy


def draw(log_prob, n: int, seed: int) -> np.ndarray:
    """``n`` architectures (indices) drawn with replacement from the law ``log_prob [arch]``."""
    p = np.exp(np.asarray(log_prob, dtype=np.float64))
    return np.random.default_rng(seed).choice(len(p), size=n, p=p / p.sum())
