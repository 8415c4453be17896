"""SNAS (Xie et al., ICLR 2019): every edge computes a soft sample of its operations.

``W = softmax((alpha + G) / tau)``, ``G = -log Exp(1)`` i.i.d.; tau falls linearly from ``tau_max`` to ``tau_min``
(their equation 4; the temperatures are those of "Picking up the pieces"). As tau goes to 0, W becomes a one-hot
sample of ``softmax(alpha)``, which is the law handed over.
"""

from dataclasses import dataclass

import torch

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    tau_max: float = 10.0
    tau_min: float = 0.1

    def mix(self, space, alpha, progress, generator):
        tau = self.tau_max + (self.tau_min - self.tau_max) * progress
        gumbel = -torch.empty_like(alpha).exponential_(generator=generator).log()
        return ((alpha + gumbel) / tau).softmax(-1)
