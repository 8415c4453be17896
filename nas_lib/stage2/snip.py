"""Sensitivity of the loss to each connection, ``sum |theta dL/dtheta|`` (SNIP, Lee et al., ICLR 2019)."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["snip"])["snip"]
