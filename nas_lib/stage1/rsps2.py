"""RSPS trained with an ideal sampler, searched with a uniform one: R_U of the published Stage-2 study.

The weights train as those of RSPS+, with the same ``sampler``; the law handed over is uniform. It is what the
published code compares as R_U (algorithms, D7), so that its weights have seen the benchmark.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
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
        return torch.from_numpy(IDEAL[self.sampler](truth))     # the law of the training

    def mix(self, space, alpha, progress, generator):
        return torch.randint(len(space.ops), (len(space.edges),), generator=generator)

    def mix_weights(self, space, alpha, progress, generator):
        drawn = torch.multinomial(alpha, 1, generator=generator).item()
        return torch.from_numpy(space.archs[drawn].astype("int64"))

    def probs(self, space, alpha):
        return torch.full((len(space.edges), len(space.ops)), 1 / len(space.ops))

    def log_prob(self, space, alpha):
        return np.full(len(space), -np.log(len(space)))
