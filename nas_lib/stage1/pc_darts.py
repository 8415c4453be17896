"""PC-DARTS (Xu et al., ICLR 2020): partial channels, and edges that compete for their node.

Operations see one k-th of the channels, the rest passes by. Edge e into node i computes ``b_e (sum_o p_eo
op_o(x), rest)`` with ``p_e = softmax(alpha_e)`` over operations and ``b`` the softmax over the edges into i of a
second set of logits, the last column of alpha ``[edge, op + 1]`` (their equations 2 and 3). alpha rests for the
share ``warmup`` of the training (15 of 50 epochs). The law handed over is p where every edge is kept, ``b_e p_e`` where
nodes choose among their edges.
"""

from dataclasses import dataclass

import torch

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    partial: int = 4
    warmup: float = 0.3

    def init(self, space, generator, truth):
        return 1e-3 * torch.randn(len(space.edges), len(space.ops) + 1, generator=generator)

    def mix(self, space, alpha, progress, generator):
        share = _share(space, alpha)[:, None]
        w = share * alpha[:, :-1].softmax(-1)
        return w if self.partial == 1 else torch.cat([w, share], -1)

    def architecture_loss(self, space, alpha, progress, generator, loss):
        if progress < self.warmup:
            return None
        return super().architecture_loss(space, alpha, progress, generator, loss)

    def partial_at(self, progress):
        return self.partial

    def probs(self, space, alpha):
        p = alpha[:, :-1].softmax(-1)
        return p if space.enumerable else _share(space, alpha)[:, None] * p

    def joint(self, space, alpha):
        return self.probs(space, alpha)


def _share(space, alpha):
    """b, the weight of every edge among those into its node, ``[edge]``."""
    target = torch.tensor([t for t, _ in space.edges])
    share = alpha[:, -1].exp()
    return share / torch.zeros(space.nodes).index_add(0, target, share)[target]
