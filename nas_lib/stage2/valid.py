"""Accuracy on the validation half under the shared weights (Li & Talwalkar, UAI 2019; SPOS, ECCV 2020).

Every candidate sees the same fixed images; its batch-norm statistics are re-estimated for it on images
of the training half, since the stored ones belong to the mixture of all architectures (defect D1).
"""

from nas_lib.selection import valid_accuracy


def score(trained, archs, data, seed, precision="float32"):
    """``precision`` of the convolutions: or "bfloat16"."""
    return valid_accuracy(trained, archs, data, precision=precision)
