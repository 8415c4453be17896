"""Preservation of the gradient flow, ``-sum theta (H g)`` with the Hessian H of one batch's loss.

GraSP, Wang, Zhang & Grosse, ICLR 2020."""

from nas_lib.selection import measure


def score(trained, archs, data, seed):
    return measure(trained, archs, data, seed, ["grasp"])["grasp"]
