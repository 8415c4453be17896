"""FairNAS (Chu, Zhang & Xu, ICCV 2021): strict fairness in single-path training.

Every weight step permutes the operations of each edge and passes the same images through as many architectures
as there are operations, so that each operation of each edge is used exactly once; the gradients add up to one
update (their algorithm 1). Where nodes choose among their edges, all architectures of a step take the same ones. There
is no alpha; the law handed over is uniform.
"""

from dataclasses import dataclass

import torch

from nas_lib.training import Stage1, take, uniform


@dataclass(frozen=True)
class Method(Stage1):
    learns = False

    def init(self, space, generator, truth):
        return torch.zeros(len(space.edges), len(space.ops))   # uniform logits, never updated

    def mix(self, space, alpha, progress, generator):
        return uniform(space, generator)

    def mix_weights(self, space, alpha, progress, generator):
        order = torch.rand(space.stay.shape, generator=generator).argsort(-1)
        return take(space, torch.from_numpy(space.stay).gather(-1, order).T, generator)     # pass, edge
