"""Keep the strongest operation of every edge: ``argmax_o alpha[e, o]`` (Liu et al., ICLR 2019).

Where nodes choose among their edges, the two whose strongest operation is the most likely (their section 2.4). Needs learned alphas; a uniform or oracle law has none to prune by.
"""

import time

from nas_lib.selection import Choice, NotApplicable, learned


def select(trained, data, candidates, seed):
    start = time.perf_counter()
    if not learned(trained):
        raise NotApplicable("prune needs architecture parameters; this Stage 1 learns none")
    strongest = trained.space.strongest(trained.probs)
    return Choice(trained.space.name_of(strongest), seconds=time.perf_counter() - start)
