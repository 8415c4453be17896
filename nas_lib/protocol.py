"""Where the published code and a correct computation differ: one flag each ("Picking up the pieces").

``CORRECTED`` is the default everywhere. ``PAPER`` repeats what the published code of NAS-Bench-201 does,
defects included; ``dataclasses.replace(CORRECTED, flag=...)`` switches one defect alone. What differs
inside a single Stage-1 method (the beta of DARTS-, the law of DrNAS, the sampler of RSPS+) is a
hyper-parameter of it, and its published values stand in the method's ``paper``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

PRECISIONS = ("float32", "bfloat16")        # of convolutions; the published code has no other than the first (N1)
BN_RULES = ("running", "batch", "recalibrate")
CHOICES = {"rank_bn": BN_RULES, "valid_bn": BN_RULES, "proxy_mode": ("train", "first")}   # of the texts


@dataclass(frozen=True)
class Protocol:
    """The flags; the comments name the defects (algorithms, sections 0 and 7)."""

    # How a supernet is trained
    clip_alpha: bool = False        # N5: the clipped norm includes the gradient of alpha
    drop_gradients: bool = False    # N3: operations not used in a step take no step either
    untrained_cells: bool = False   # D27: the optimizer knows only stem, tail and classifier

    # How the whole space is ranked
    rank_bn: str = "batch"          # D1: "running" statistics belong to the mixture, not to a cell
    fresh_images: bool = False      # D5: every architecture sees other images, augmented
    random_gdas: bool = False       # D4: a supernet of gdas answers with architectures of its own law

    # How candidates are drawn and scored
    valid_bn: str = "recalibrate"   # D1, for the accuracy of the candidates
    proxy_mode: str = "train"       # D2: "first" scores candidate 0 in train mode, the others in eval mode
    fresh_batch: bool = False       # D3: every candidate is scored on another batch
    shared_draw: bool = False       # D16: all methods of a seed draw with the same random numbers

    def __post_init__(self):
        for f in fields(self):
            value, allowed = getattr(self, f.name), CHOICES.get(f.name, (False, True))
            if type(value) is not type(f.default) or value not in allowed:
                raise ValueError(f"{f.name} = {value!r}: it must be one of {', '.join(map(str, allowed))}")


CORRECTED = Protocol()
PAPER = Protocol(clip_alpha=True, rank_bn="running", fresh_images=True, random_gdas=True, valid_bn="running",
                 proxy_mode="first", fresh_batch=True, shared_draw=True)
BY_NAME = {"corrected": CORRECTED, "paper": PAPER}
