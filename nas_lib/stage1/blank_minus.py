"""DARTS- with its alpha fixed at the start ("Picking up the pieces", the fixed-alpha rows of its case study).

Edge e computes ``beta x + sum_o softmax(alpha_0)_eo op_o(x)``, ``alpha_0 = 1e-3 N(0, 1)``; ``beta`` falls with the
progress p of the training: "linear" ``1 - p``, "constant" 1, "late" 1, then from 0.98 at p = 1/2 to 0 (the
published case study on NAS-Bench-201, in 100 epochs). The law handed over is ``softmax(alpha_0)``.
"""

from dataclasses import dataclass
from typing import ClassVar

from nas_lib.training import Stage1, beside

BETA = {
    "linear": lambda p: 1 - p,
    "constant": lambda p: 1.0,
    "late": lambda p: 1.0 if p < 0.5 else max(1.98 - 2 * p, 0.0),
}


@dataclass(frozen=True)
class Method(Stage1):
    beta: str = "linear"

    learns = False
    auxiliary = True
    options: ClassVar[dict] = {"beta": BETA}
    paper: ClassVar[dict] = {"beta": "late"}

    def mix(self, space, alpha, progress, generator):
        return beside(space, alpha.softmax(-1), BETA[self.beta](progress))
