"""Parameters of a run, checked before anything is computed."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from nas_lib.protocol import BY_NAME, Protocol
from nas_lib.spaces import SPACES, SearchSpace


class ParameterError(ValueError):
    """A parameter is unknown or has an impossible value; the message names the remedy."""


@dataclass(frozen=True)
class Setup:
    """One supernet: its method, its data and its size. Raises ParameterError for a wrong type."""

    method: str = "gdas"            # built-in name, or path of a .py file (from here or the repository root)
    seed: int = 0
    space: str = "nb201"            # or one of the DARTS spaces, "s0" to "s4"
    data: str = "digits"
    channels: int = 4
    cells: int = 1                  # per stage; in the DARTS spaces all of them
    epochs: int = 60
    batch: int = 64
    lr: float = 0.1
    lr_min: float = 0.001           # to which lr falls
    partial: int = 1                # operations see one channel in so many
    alpha_lr: float = 0.01
    hyper: dict = field(default_factory=dict)       # hyper-parameters of the method
    options: dict = field(default_factory=dict)     # options of the data set
    device: str = "cpu"
    protocol: str = "corrected"     # or "paper": as the published code computes
    flags: dict = field(default_factory=dict)       # single flags of the protocol
    threads: int = 1                # sums are rounded differently with another number
    cache: str = "results/cache"

    def __post_init__(self):
        for f in fields(self):
            value, wanted = getattr(self, f.name), f.type
            number = isinstance(value, int | float) and not isinstance(value, bool)
            good = number and (wanted == "float" or value == int(value)) if wanted in ("int", "float") \
                else type(value).__name__ == wanted
            if not good:
                raise ParameterError(f"{f.name} = {value!r}: it must be {wanted}")
        if self.space not in SPACES:
            raise ParameterError(f"space = {self.space!r}: there are {', '.join(SPACES)}")
        for name in ("channels", "cells", "batch", "partial", "threads"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} = {getattr(self, name)}: it must be at least 1")
        self.rules  # noqa: B018  a wrong flag is refused here

    @property
    def rules(self) -> Protocol:
        """The protocol, its flags set. Raises ParameterError."""
        if self.protocol not in BY_NAME:
            raise ParameterError(f"protocol = {self.protocol!r}: there are {', '.join(BY_NAME)}")
        # The published code of the DARTS spaces leaves alpha out of the clipped norm (algorithms, N5).
        own = {} if self.searched.enumerable else {"clip_alpha": False}
        try:
            return replace(BY_NAME[self.protocol], **own | self.flags)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"flags: {error}; there are {', '.join(f.name for f in fields(Protocol))}") from None

    @property
    def searched(self) -> SearchSpace:
        """The space."""
        return SPACES[self.space]

    @property
    def dataset(self) -> str:
        """What results call the data: by the space, too, if that is not NAS-Bench-201, as in ``s1-cifar10``."""
        return self.data if self.space == "nb201" else f"{self.space}-{self.data}"

    @property
    def name(self) -> str:
        """The method as results call it: ``mine`` for ``path/mine.py``."""
        return short(self.method)


def check_parameters(history: list[str]) -> None:
    """Refuse parameters that papermill injected and the notebook does not have.

    papermill only warns of them. ``history`` is IPython's ``In``, the cells run so far. Raises
    ParameterError.
    """
    for before, cell in zip(history, history[1:], strict=False):
        if cell.startswith("# Parameters"):
            unknown = _assigned(cell) - _assigned(before)
            if unknown:
                raise ParameterError(f"unknown parameter {', '.join(sorted(unknown))}; this notebook has "
                                     f"{', '.join(sorted(_assigned(before)))}")


def short(method: str) -> str:
    """A method's name in results: ``mine`` for ``path/mine.py``."""
    return Path(method).stem if method.endswith(".py") else method


def _assigned(cell: str) -> set[str]:
    targets = (t for s in ast.parse(cell).body if isinstance(s, ast.Assign | ast.AnnAssign)
               for t in (s.targets if isinstance(s, ast.Assign) else [s.target]))
    return {t.id for t in targets if isinstance(t, ast.Name)}
