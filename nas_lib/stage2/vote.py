"""Ensemble of zero-cost measures: the best mean rank among the candidates.

``score = mean_m rank_m``, 1 the worst, ties sharing their mean rank, what cannot be scored below all others.
The measures fail in different ways, and their ranks have one scale (Abdelfattah et al., ICLR 2021, section 3.3).
"""

import pandas as pd

from nas_lib.selection import measure

MEASURES = ("synflow", "jacob_cov", "naswot")


def score(trained, archs, data, seed):
    values = pd.DataFrame(measure(trained, archs, data, seed, MEASURES))
    return values.rank(na_option="top").mean(axis=1).to_numpy()
