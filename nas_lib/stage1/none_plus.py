"""No training and an ideal law: a baseline of the Stage-2 study, N_I ("Picking up the pieces", 4.2).

The supernet is as initialised; the law goes by the benchmark's test accuracy: ``sampler`` "rank", in proportion
to the rank, the worst having rank 0; "threshold", over those within two points of the best, as the stored
baselines were (algorithms, D6). alpha holds that law, ``[arch]``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from nas_lib.sampling import IDEAL
from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    sampler: str = "rank"

    learns = False
    trains = False
    informed = True
    options: ClassVar[dict] = {"sampler": IDEAL}
    paper: ClassVar[dict] = {"sampler": "threshold"}

    def init(self, space, generator, truth):
        return torch.from_numpy(IDEAL[self.sampler](truth))

    def probs(self, space, alpha):
        return None                     # the law does not factorise over edges

    def log_prob(self, space, alpha):
        return alpha.log().numpy()
