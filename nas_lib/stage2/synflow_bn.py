"""Synaptic flow with batch norm in place, ``sum |theta dR/dtheta|`` (Abdelfattah et al., ICLR 2021).

A control for synflow: batch norm undoes the scale of the weights. The definition is in ``proxies``."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["synflow_bn"])["synflow_bn"]
