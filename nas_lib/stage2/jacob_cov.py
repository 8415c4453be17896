"""Correlation of input gradients within one fixed batch of training images (Mellor et al., ICML 2021).

``-sum log(v + k) + 1 / (v + k)`` over the eigenvalues v: high if images are told apart. See ``proxies``."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["jacob_cov"])["jacob_cov"]
