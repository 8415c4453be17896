"""RSPS with an ideal sampler ("Picking up the pieces", section 4.2): an oracle baseline, R_I.

Every weight step trains one architecture drawn by the benchmark's test accuracy: ``sampler`` "rank", in
proportion to its rank, the worst having rank 0; "threshold", from those within two points of the best, as the
stored baselines were (algorithms, D6). alpha holds that law, ``[arch]``; it is handed over.
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
    informed = True
    options: ClassVar[dict] = {"sampler": IDEAL}
    paper: ClassVar[dict] = {"sampler": "threshold"}

    def init(self, space, generator, truth):
        return torch.from_numpy(IDEAL[self.sampler](truth))

    def mix(self, space, alpha, progress, generator):
        drawn = torch.multinomial(alpha, 1, generator=generator).item()
        return torch.from_numpy(space.archs[drawn].astype("int64"))

    def probs(self, space, alpha):
        return None                     # the law does not factorise over edges

    def log_prob(self, space, alpha):
        return alpha.log().numpy()
