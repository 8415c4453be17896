"""SDARTS-RS (Chen & Hsieh, ICML 2020): weights that stay good under random perturbations of the mixture.

alpha steps as in first-order DARTS, on ``p = softmax(alpha)``. The weight step uses ``clip(p + U(-eps, eps), 0, 1)``
with every edge normalised to sum 1 (a row of zeros becomes 1 at its largest p); eps grows linearly with the
training from ``eps_min`` to ``eps_max`` (their equation 3, and the published code). The law handed over is p.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    eps_min: float = 0.03
    eps_max: float = 0.3

    def mix(self, space, alpha, progress, generator):
        return alpha.softmax(-1)

    def mix_weights(self, space, alpha, progress, generator):
        p = alpha.softmax(-1)
        eps = self.eps_min + (self.eps_max - self.eps_min) * progress
        noise = torch.empty_like(p).uniform_(-eps, eps, generator=generator)
        w = (p + noise).clamp(0, 1)
        empty = w.sum(-1, keepdim=True) == 0
        w = torch.where(empty, F.one_hot(p.argmax(-1), p.shape[-1]).to(p), w)
        return w / w.sum(-1, keepdim=True)
