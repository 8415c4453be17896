"""DARTS with its alpha fixed at the start ("Picking up the pieces", the fixed-alpha rows of its tables).

The weights train under the mixture ``softmax(alpha_0)``, ``alpha_0 = 1e-3 N(0, 1)``, almost uniform. Whatever a
second stage then finds comes from the weights. The law handed over is ``softmax(alpha_0)``.
"""

from dataclasses import dataclass

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    learns = False

    def mix(self, space, alpha, progress, generator):
        return alpha.softmax(-1)
