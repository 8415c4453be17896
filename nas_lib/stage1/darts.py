"""DARTS (Liu, Simonyan & Yang, ICLR 2019).

Every edge computes the mixture ``sum_o softmax(alpha_e)_o op_o(x)``; alpha descends the validation loss at the
current weights or, with ``unrolled``, at the weights one step ahead (second order, their equations 7 and 8).
The law handed over is ``softmax(alpha)``, edge by edge.
"""

from dataclasses import dataclass

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    unrolled: bool = False

    def mix(self, space, alpha, progress, generator):
        return alpha.softmax(-1)
