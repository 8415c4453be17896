"""RSPS with an ideal sampler ("Picking up the pieces", section 4.2): an oracle baseline, R_I.

Every weight step trains one architecture drawn with probability proportional to its rank by the
benchmark's test accuracy, the worst having rank 0. alpha holds that law, ``[arch]``; it is handed over.
"""

from dataclasses import dataclass

import torch

from nas_lib.sampling import rank_law
from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    learns = False
    informed = True

    def init(self, space, generator, truth):
        return torch.from_numpy(rank_law(truth))

    def mix(self, space, alpha, progress, generator):
        drawn = torch.multinomial(alpha, 1, generator=generator).item()
        return torch.from_numpy(space.archs[drawn].astype("int64"))

    def probs(self, space, alpha):
        return None                     # the law does not factorise over edges

    def log_prob(self, space, alpha):
        return alpha.log().numpy()
