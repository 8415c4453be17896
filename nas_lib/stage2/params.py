"""Number of parameters of the stand-alone network: the baseline that every measure must beat.

Counted over live edges only, so that one network has one score.
"""

from nas_lib.proxies import size


def score(trained, archs, data, seed):
    return size(trained.supernet, archs, data.shape)[0]
