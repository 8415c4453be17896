"""DARTS- (Chu et al., ICLR 2021): an auxiliary skip connection beside every mixture.

Edge e computes ``beta skip(x) + sum_o softmax(alpha_e)_o op_o(x)``. Where every edge has stride 1 the auxiliary branch
is the operation skip_connect, so beta adds to that operation's weight. ``beta`` falls with the progress p of
the training: "linear" ``1 - p`` (the DARTS- paper); "constant" 1; "ahead" ``0.98 - p`` (in 50 epochs, the
published code of the DARTS space); "late" 1, then from 0.98 at p = 1/2 to 0 (in 100 epochs, its case study). The
law handed over, ``softmax(alpha)``, knows no auxiliary branch (algorithms, section 3 and D9).
"""

from dataclasses import dataclass
from typing import ClassVar

from nas_lib.training import Stage1, beside

BETA = {
    "linear": lambda p: 1 - p,
    "constant": lambda p: 1.0,
    "ahead": lambda p: max(0.98 - p, 0.0),
    "late": lambda p: 1.0 if p < 0.5 else max(1.98 - 2 * p, 0.0),
}


@dataclass(frozen=True)
class Method(Stage1):
    beta: str = "linear"

    auxiliary = True
    options: ClassVar[dict] = {"beta": BETA}
    paper: ClassVar[dict] = {"beta": "constant"}

    def mix(self, space, alpha, progress, generator):
        return beside(space, alpha.softmax(-1), BETA[self.beta](progress))
