"""Size of the shared weights that an architecture uses, ``sum_layer |theta|_2``; a baseline without data."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["l2_norm"])["l2_norm"]
