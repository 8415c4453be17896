"""Fisher information of the channels: ``sum_c n_c/2 mean_B (sum_places a dL/da)^2``, see ``proxies``.

Turner et al., BlockSwap, ICLR 2020. n_c is the number of weights that make channel c."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["fisher"])["fisher"]
