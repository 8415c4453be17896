"""Parameters of a run, checked before anything is computed."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from nas_lib.protocol import BY_NAME, PRECISIONS, Protocol
from nas_lib.spaces import SPACES, SearchSpace


class ParameterError(ValueError):
    """A parameter is unknown or has an impossible value; the message names the remedy."""


# What is beyond them is a slip of the finger, and would ask for all memory or take for ever.
LIMITS = {"seed": (0, 2**31 - 1), "channels": (1, 1024), "cells": (1, 100), "epochs": (0, 100_000), "batch": (1, 100_000),
          "partial": (1, 1024), "threads": (1, 1024), "lr": (0, 1e6), "lr_min": (0, 1e6), "alpha_lr": (0, 1e6)}


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
    precision: str = "float32"      # or "bfloat16": of the training's convolutions
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
            value = getattr(self, f.name)
            if not _is(f.type, value):
                raise ParameterError(f"{f.name} = {value!r:.200}: it must be {f.type}")
        if self.space not in SPACES:
            raise ParameterError(f"space = {self.space!r}: there are {', '.join(SPACES)}")
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ParameterError(f"{name} = {getattr(self, name)}: it must be from {least:,} to {most:,}")
        if self.precision not in PRECISIONS:
            raise ParameterError(f"precision = {self.precision!r}: it can be {', '.join(PRECISIONS)}")
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


def check_scoring(scoring: dict) -> dict:
    """Options of a ranking, as they are. Raises ParameterError for an unknown one or an impossible value."""
    good = {"precision": lambda v: v in PRECISIONS, "top": lambda v: type(v) is int and v > 0,
            "correct": lambda v: type(v) is bool}
    for name, value in scoring.items():
        if name not in good or not good[name](value):
            raise ParameterError(f"scoring: {name} = {value!r}; it can have precision ({', '.join(PRECISIONS)}), top (1, 2, ...) "
                                 "and correct (true, false)")
    return scoring


def check_parameters(history: list[str]) -> None:
    """Refuse parameters that papermill injected and the notebook does not have, or has as another type.

    papermill only warns of the first. ``history`` is IPython's ``In``, the cells run so far. Raises ParameterError.
    """
    for before, cell in zip(history, history[1:], strict=False):
        if cell.startswith("# Parameters"):
            known, given = _assigned(before), _assigned(cell)
            if unknown := given.keys() - known:
                raise ParameterError(f"unknown parameter {', '.join(sorted(unknown))}; this notebook has "
                                     f"{', '.join(sorted(known))}")
            for name, (_, value) in given.items():
                kind, default = known[name]
                if kind and not (value is None and default is None or _is(kind, value)):
                    raise ParameterError(f"{name} = {value!r:.200}: it must be {kind}")


def _is(kind: str, value) -> bool:
    """Whether ``value`` is of the type named ``kind``; a whole number is a float, and 3.0 a whole number."""
    if kind in ("int", "float"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (kind == "float" or value == value // 1)
    return type(value).__name__ == kind


def short(method: str) -> str:
    """A method's name in results: ``mine`` for ``path/mine.py``. Raises ParameterError for what is no text."""
    if not isinstance(method, str):
        raise ParameterError(f"method = {method!r:.200}: it must be a name, or the path of a .py file")
    return Path(method).stem if method.endswith(".py") else method


def check_seeds(seeds) -> None:
    """Raises ParameterError for what is no list of different whole numbers from 0."""
    least, most = LIMITS["seed"]
    if not seeds or not all(_is("int", s) and least <= s <= most for s in seeds) or len(set(seeds)) < len(seeds):
        raise ParameterError(f"seeds = {seeds!r:.200}: name at least one, each once, and whole numbers from 0")


def _assigned(cell: str) -> dict[str, tuple[str, object]]:
    """What a cell of parameters assigns: name, type (or "") and value."""
    found = {}
    for s in ast.parse(cell).body:
        if isinstance(s, ast.Assign | ast.AnnAssign):
            kind = ast.unparse(s.annotation) if isinstance(s, ast.AnnAssign) else ""
            for t in s.targets if isinstance(s, ast.Assign) else [s.target]:
                if isinstance(t, ast.Name):
                    found[t.id] = kind, _value(s.value)
    return found


def _value(node: ast.expr):
    """A literal, or what papermill writes for the numbers that have none."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return float(ast.literal_eval(node.args[0])) if isinstance(node, ast.Call) else node
