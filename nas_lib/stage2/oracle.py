"""The truly best of the candidates: an upper bound for every rule that selects among them.

It is informed: it sees the benchmark's test accuracies ``truth [arch]``, as no real method may.
"""

informed = True


def score(trained, archs, data, seed, truth):
    return truth[trained.space.index(archs)]
