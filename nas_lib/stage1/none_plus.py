"""No training and an ideal law: a baseline of the Stage-2 study, N_I ("Picking up the pieces", 4.2).

The supernet is as initialised; the law gives every architecture a probability proportional to its rank
by the benchmark's test accuracy, the worst having rank 0. alpha holds that law, ``[arch]``.
"""

from dataclasses import dataclass

import torch

from nas_lib.sampling import rank_law
from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    learns = False
    trains = False
    informed = True

    def init(self, space, generator, truth):
        return torch.from_numpy(rank_law(truth))

    def probs(self, space, alpha):
        return None                     # the law does not factorise over edges

    def log_prob(self, space, alpha):
        return alpha.log().numpy()
