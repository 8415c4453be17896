"""Response to a small change of the input, batch norm's rescaling undone (Lin et al., ICCV 2021).

``log mean |f(x + 0.01 e) - f(x)| + sum log sqrt(mean var)``, with shared weights and real images. See ``proxies``."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["zen"])["zen"]
