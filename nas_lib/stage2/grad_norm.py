"""Size of the gradient of one batch's loss, ``sum_layer |dL/dtheta|_2`` (Abdelfattah et al., ICLR 2021)."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["grad_norm"])["grad_norm"]
