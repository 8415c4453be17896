"""Keep the strongest operation of every edge: ``argmax_o alpha[e, o]`` (Liu et al., ICLR 2019).

Needs learned alphas; a uniform or oracle law has none to prune by.
"""

import time

from nas_lib.selection import Choice, NotApplicable, learned


def select(trained, data, candidates, seed):
    start = time.perf_counter()
    if not learned(trained):
        raise NotApplicable("prune needs architecture parameters; this Stage 1 learns none")
    strongest = trained.probs.argmax(-1).numpy()
    return Choice(int(trained.space.index(strongest)), seconds=time.perf_counter() - start)
