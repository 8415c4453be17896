"""How many ReLUs tell the images of a batch apart: ``log det K``, ``K_ij = N - Hamming(c_i, c_j)``.

Mellor et al., ICML 2021; c_i is the on/off code of the N ReLUs for image i. See ``proxies``."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["naswot"])["naswot"]
