"""RSPS, random search with parameter sharing (Li & Talwalkar, UAI 2019).

Every weight step trains one architecture, each equally likely. There is no alpha; the law handed over is uniform. As
a baseline of the Stage-2 study this is R_U.
"""

from dataclasses import dataclass

import torch

from nas_lib.training import Stage1, uniform


@dataclass(frozen=True)
class Method(Stage1):
    learns = False

    def init(self, space, generator, truth):
        return torch.zeros(len(space.edges), len(space.ops))   # uniform logits, never updated

    def mix(self, space, alpha, progress, generator):
        return uniform(space, generator)
