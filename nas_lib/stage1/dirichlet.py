"""DrNAS (Chen et al., ICLR 2021): the mixture of every edge is drawn from a Dirichlet law.

``W_e ~ Dir(c_e)``, ``c_e = elu(alpha_e) + 1``, reparameterised: ``W = g / sum g``, ``g_o ~ Gamma(c_eo)``. ``reg`` keeps
the concentrations near 1: "l2" by the weight decay of alpha, "kl" by ``kl_weight sum_e KL(Dir(c_e) || Dir(1))``
without decay. ``law`` handed over: "mean" ``c_e / sum c_e``, or "softmax" of alpha as in "Picking up the pieces".

``partial`` k lets the operations see one k-th of the channels. With ``progressive`` the training has two halves
(their section 3.3): in the second, k is halved and only the ``keep`` operations with the largest alpha of each
edge remain, their W renormalised; in the first fifth of each half alpha rests. A removed operation is one whose
alpha is so low that its concentration is exactly 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from nas_lib.training import Stage1

REMOVED = -1e9      # too low for any step of alpha to move it in float32


@dataclass(frozen=True)
class Method(Stage1):
    reg: str = "l2"
    kl_weight: float = 1e-3
    law: str = "mean"
    partial: int = 1
    progressive: bool = False
    keep: int = 3

    options: ClassVar[dict] = {"reg": ("l2", "kl"), "law": ("mean", "softmax")}
    paper: ClassVar[dict] = {"law": "softmax"}

    @property
    def decays(self):
        return self.reg == "l2"

    def mix(self, space, alpha, progress, generator):
        c = F.elu(alpha) + 1
        there = c > 0
        gamma = torch._standard_gamma(torch.where(there, c, 1), generator=generator)
        gamma = torch.where(there, gamma, 0)
        return gamma / gamma.sum(-1, keepdim=True)

    def architecture_loss(self, space, alpha, progress, generator, loss):
        if self.progressive and 2 * progress % 1 < 0.2:
            return None
        return super().architecture_loss(space, alpha, progress, generator, loss)

    def penalty(self, alpha):
        """``KL(Dir(c) || Dir(1)) = log G(sum c) - log G(K) - sum log G(c) + sum (c - 1)(psi(c) - psi(sum c))``."""
        if self.reg == "l2":
            return 0.0
        c = F.elu(alpha) + 1
        there = c > 0
        safe, total = torch.where(there, c, 1), c.sum(-1, keepdim=True)     # log G(1) = 0, and so is c - 1
        terms = (safe - 1) * (safe.digamma() - total.digamma()) - safe.lgamma()
        count = there.sum(-1).to(c)
        return self.kl_weight * (terms.sum(-1) + total[..., 0].lgamma() - count.lgamma()).sum()

    def start_epoch(self, alpha, progress):
        if not self.progressive or progress < 0.5:
            return alpha
        kept = alpha.topk(min(self.keep, alpha.shape[-1]), -1).indices
        return torch.full_like(alpha, REMOVED).scatter(-1, kept, alpha.gather(-1, kept))

    def partial_at(self, progress):
        return max(self.partial // 2, 1) if self.progressive and progress >= 0.5 else self.partial

    def probs(self, space, alpha):
        if self.law == "softmax":
            return alpha.softmax(-1)
        c = F.elu(alpha) + 1
        return c / c.sum(-1, keepdim=True)

    def joint(self, space, alpha):
        return super().joint(space, alpha) if self.law == "softmax" else F.elu(alpha) + 1
