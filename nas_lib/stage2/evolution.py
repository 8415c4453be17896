"""Regularised evolution on the accuracy under shared weights (Real et al., AAAI 2019; SPOS, ECCV 2020).

A population of the first candidates; then, again and again: of ``sample`` members drawn at random the fittest has
a child with one operation (or source of an edge) changed, the child joins and the oldest member leaves. The fitness is that of ``valid``.
As many different architectures are scored as there are candidates, each once; the best of all is selected.
"""

import time

import numpy as np

from nas_lib.selection import Choice, valid_accuracy


def select(trained, data, candidates, seed, population=20, sample=5):
    start = time.perf_counter()
    space, rng, matrices = trained.space, np.random.default_rng(seed), {}
    members = np.asarray(candidates[:population]).tolist()
    founders = np.unique(members)
    first = valid_accuracy(trained, space.named(founders), data, matrices)
    fitness = dict(zip(founders.tolist(), first.tolist(), strict=True))
    allowed = min(len(candidates), space.size)
    while len(fitness) < allowed:
        parent = max(rng.choice(members, sample), key=fitness.get)
        child = space.name_of(space.mutated(space.named([parent])[0], rng))
        if child not in fitness:
            fitness[child] = float(valid_accuracy(trained, space.named([child]), data, matrices)[0])
        members = [*members[1:], child]
    best = max(fitness, key=fitness.get)
    return Choice(best, list(fitness.values()).count(fitness[best]), seconds=time.perf_counter() - start)
