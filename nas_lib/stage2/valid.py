"""Accuracy on the validation half under the shared weights (Li & Talwalkar, UAI 2019; SPOS, ECCV 2020).

Every candidate sees the same fixed images; its batch-norm statistics are re-estimated for it on images
of the training half, since the stored ones belong to the mixture of all architectures (defect D1).
"""

from nas_lib.ranking import accuracy


def score(trained, archs, data, seed):
    x, y = data.fixed("valid half", copies=1)
    calibration, _ = data.fixed("train half", copies=1)
    return accuracy(trained.supernet, archs, x, y, "recalibrate", calibration=calibration)[0]
