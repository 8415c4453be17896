"""States on disk: tensors and plain values only, written to the end or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch

EVERY = 5.0     # seconds of work that a stop may cost: storing a small state takes as long as an epoch of it


class CheckpointError(OSError):
    """A state could not be written or read; the message names the remedy."""


def save(path: Path, state: dict, purpose: str) -> None:
    """Write ``state`` to ``path`` under a temporary name, flush it to disk, then rename it.

    ``purpose`` says in words what the state is of: ``load`` gives it back only for that.

    Raises CheckpointError, leaving any earlier file as it was, if the folder cannot be written or
    the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            torch.save(state | {"purpose": purpose}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path} ({error}): free some space or choose a folder "
                              f"that can be written; what was stored before is untouched") from error


def load(path: Path, purpose: str | None = None) -> dict:
    """Read, onto the CPU, a state that ``save`` wrote for the same ``purpose`` (None: for any).

    Weights-only, so that no code in the file can run. Raises CheckpointError if the file is missing, cut or not
    such a state, or was written for something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state.pop("purpose")
    except Exception as error:
        raise CheckpointError(f"cannot read {path} ({type(error).__name__}: {error}): delete it, and "
                              f"the run starts again from what else is stored") from error
    if purpose not in (None, found):
        raise CheckpointError(f"{path} belongs to another run ({found}), not to {purpose}: use another folder, "
                              "or delete it")
    return state


class Checkpoint:
    """Where a long piece of work keeps its state; with no ``path`` it keeps none.

    ``purpose`` says in words what the work is: a state of other work is not taken for it.
    """

    def __init__(self, path: Path | None, purpose: str):
        self.path, self.purpose, self.stored = path and Path(path), purpose, time.monotonic()

    def load(self) -> dict | None:
        """The state from which to go on, if there is one. Raises CheckpointError as ``load`` does."""
        return load(self.path, self.purpose) if self.path is not None and self.path.exists() else None

    def keep(self, state: dict, end: bool) -> None:
        """Store ``state``, at the ``end`` of the work always, before it at most every ``EVERY`` seconds."""
        if self.path is not None and (end or time.monotonic() - self.stored >= EVERY):
            save(self.path, state, self.purpose)
            self.stored = time.monotonic()
