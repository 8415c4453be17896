"""GDAS (Dong & Yang, CVPR 2019): one operation per edge, straight-through Gumbel-softmax.

``z = softmax((log softmax(alpha) + G) / tau)``, ``G = -log Exp(1)`` i.i.d., ``h = onehot(argmax z)``,
``W = h - stopgrad(z) + z``: the chosen operation has weight 1 and the others 0, the gradient is that
of z. tau falls linearly from ``tau_max`` to ``tau_min``; argmax does not depend on it, so samples always
follow ``softmax(alpha)``, which is the law handed over.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    tau_max: float = 10.0
    tau_min: float = 0.1

    def mix(self, space, alpha, progress, generator):
        tau = self.tau_max + (self.tau_min - self.tau_max) * progress
        gumbel = -torch.empty_like(alpha).exponential_(generator=generator).log()
        z = ((alpha.log_softmax(-1) + gumbel) / tau).softmax(-1)
        h = F.one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype)
        return h - z.detach() + z
