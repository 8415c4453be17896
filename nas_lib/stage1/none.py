"""No Stage 1: the supernet as initialised and a uniform law. A baseline of the Stage-2 study, N_U."""

from dataclasses import dataclass

import torch

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    learns = False
    trains = False

    def init(self, space, generator, truth):
        return torch.zeros(len(space.edges), len(space.ops))   # uniform logits, never updated
