"""Synaptic flow under the shared weights: ``sum |theta dR/dtheta|``; no image is looked at.

Tanaka et al., NeurIPS 2020; Abdelfattah et al., ICLR 2021. The definition is in ``proxies``."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["synflow"])["synflow"]
