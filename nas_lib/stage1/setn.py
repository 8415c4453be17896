"""SETN (Dong & Yang, ICCV 2019): weights of uniform single paths, and an evaluator that learns where they do well.

Every weight step trains one architecture, each equally likely. alpha holds the evaluator,
``softmax(alpha)``, the law handed over: it descends the expected validation loss of the architectures it names,
``E_{a ~ softmax(alpha)} L_val(a)``, from ``paths`` of them. Its gradient is that of ``mean_i (L_i - mean of the other
L) log p(a_i)`` (score function). With 0 paths the expectation moves inside, as in their code: ``L_val`` of the
mixture ``softmax(alpha)``. Where nodes choose among their edges, the law is over operations; edges are equally likely.
"""

from dataclasses import dataclass

import torch

from nas_lib.training import Stage1, take, uniform


@dataclass(frozen=True)
class Method(Stage1):
    paths: int = 4

    def __post_init__(self):
        if self.paths < 0 or self.paths == 1:
            raise ValueError(f"paths = {self.paths}: 0, or at least 2 to compare")

    def mix(self, space, alpha, progress, generator):
        if self.paths == 0:
            return alpha.softmax(-1)
        return take(space, torch.multinomial(self.probs(space, alpha), 1, generator=generator)[:, 0], generator)

    def mix_weights(self, space, alpha, progress, generator):
        return uniform(space, generator)

    def architecture_loss(self, space, alpha, progress, generator, loss):
        if self.paths == 0:
            return loss(alpha.softmax(-1))
        archs = torch.stack([self.mix(space, alpha, progress, generator) for _ in range(self.paths)])
        with torch.no_grad():
            losses = torch.stack([loss(arch) for arch in archs]).to(alpha)
        better = (losses - losses.mean()) * self.paths / (self.paths - 1)
        each = _possible(space, alpha).log_softmax(-1).gather(-1, archs.T.clamp(min=0))    # edge, path
        return (better * each.where(archs.T >= 0, 0).sum(0)).mean()

    def probs(self, space, alpha):
        return _possible(space, alpha).softmax(-1)

    def joint(self, space, alpha):
        return self.probs(space, alpha)


def _possible(space, alpha):
    """alpha, and minus infinity for operations that cannot stay."""
    stay = torch.from_numpy(space.stay)
    return torch.full_like(alpha, -torch.inf).scatter(-1, stay, alpha.gather(-1, stay))
