"""SETN (Dong & Yang, ICCV 2019): weights of uniform single paths, and an evaluator that learns where they do well.

Every weight step trains one architecture, each edge uniform over its operations. alpha holds the evaluator,
``softmax(alpha)``, the law handed over: it descends the expected validation loss of the architectures it names,
``E_{a ~ softmax(alpha)} L_val(a)``, from ``paths`` of them. Its gradient is that of ``mean_i (L_i - mean of the other
L) log p(a_i)`` (score function). With 0 paths the expectation moves inside, as in their code: ``L_val`` of the
mixture ``softmax(alpha)``.
"""

from dataclasses import dataclass

import torch

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    paths: int = 4

    def __post_init__(self):
        if self.paths < 0 or self.paths == 1:
            raise ValueError(f"paths = {self.paths}: 0, or at least 2 to compare")

    def mix(self, space, alpha, progress, generator):
        if self.paths == 0:
            return alpha.softmax(-1)
        return torch.multinomial(alpha.softmax(-1), 1, generator=generator)[:, 0]

    def mix_weights(self, space, alpha, progress, generator):
        edges, ops = alpha.shape
        return torch.randint(ops, (edges,), generator=generator)

    def architecture_loss(self, space, alpha, progress, generator, loss):
        if self.paths == 0:
            return loss(alpha.softmax(-1))
        archs = torch.stack([self.mix(space, alpha, progress, generator) for _ in range(self.paths)])
        with torch.no_grad():
            losses = torch.stack([loss(arch) for arch in archs]).to(alpha)
        better = (losses - losses.mean()) * self.paths / (self.paths - 1)
        log_p = alpha.log_softmax(-1).gather(-1, archs.T).sum(0)                 # path
        return (better * log_p).mean()
