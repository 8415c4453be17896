"""One of the candidates at random: what the law alone achieves, without any score."""

import time

import numpy as np

from nas_lib.selection import Choice


def select(trained, data, candidates, seed):
    start = time.perf_counter()
    picked = np.random.default_rng(seed).choice(candidates)
    return Choice(picked.item(), seconds=time.perf_counter() - start)
