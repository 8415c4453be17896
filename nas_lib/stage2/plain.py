"""What the loss changes by if all weights grow alike, ``sum theta dL/dtheta``, signed.

A baseline of zero-cost measures (Abdelfattah et al., ICLR 2021): without the absolute value of snip."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["plain"])["plain"]
