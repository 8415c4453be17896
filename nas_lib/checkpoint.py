"""States on disk: tensors and plain values only, written to the end or not at all."""

from __future__ import annotations

import io
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch

from nas_lib import pickled

EVERY = 5.0     # seconds of work that a stop may cost: storing a small state takes as long as an epoch of it


class CheckpointError(OSError):
    """A state could not be written or read; the message names the remedy."""


class Damaged(CheckpointError):
    """A file is not there, or holds no state."""


def save(path: Path, state: dict, purpose: str, before: Path | None = None) -> None:
    """Write ``state`` to ``path`` under a temporary name, flush it to disk, then rename it.

    ``purpose`` says in words what the state is of: ``load`` gives it back only for that. A state that is at ``path``
    goes to ``before``, if that is given.

    Raises CheckpointError, leaving any earlier file as it was, if the folder cannot be written or
    the disk is full.
    """
    write(path, lambda file: torch.save(state | {"purpose": purpose}, file), before)


def write(path: Path, fill: Callable[[BinaryIO], object], before: Path | None = None) -> None:
    """Write what ``fill`` writes into a file, as ``save`` does."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            with suppress(FileNotFoundError):       # there is none yet, or another run of the same work was quicker
                os.replace(path, before)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if temporary is not None:
            with suppress(OSError):                 # the folder can no longer be written
                os.unlink(temporary)
        raise CheckpointError(f"cannot write {path} ({error}): free some space or choose a folder "
                              f"that can be written; what was stored before is untouched") from error


def load(path: Path, purpose: str | None = None) -> dict:
    """Read a state that ``save`` wrote for the same ``purpose`` (None: for any), as ``read`` does.

    Raises Damaged if it is not such a state, CheckpointError if it was written for something else.
    """
    state = read(path)
    if not isinstance(state, dict) or "purpose" not in state:
        raise _damaged(path, KeyError("purpose"))
    found = state.pop("purpose")
    if purpose not in (None, found):
        raise CheckpointError(f"{path} belongs to another run ({str(found)[:200]}), not to {purpose}: use another folder, "
                              "or delete it")
    return state


def read(path: Path):
    """What ``torch.save`` wrote, onto the CPU: tensors and plain values only, so that no code in the file can run.

    Raises Damaged if the file is missing, cut, changed, or of the form that torch wrote before 1.6, which can ask for
    any amount of memory.
    """
    try:
        content = Path(path).read_bytes()
        _check(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _damaged(path, error) from error


def _check(content: bytes) -> None:
    """Refuse what is not, to the last bit, an archive as torch wrote it; torch itself reads past its checksums."""
    if not content.startswith(b"PK"):
        raise ValueError("it is no archive; a state of torch before 1.6 must be loaded there and saved again")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sum(m.file_size for m in members) > len(content):
            raise ValueError("it would unpack to more than it holds")
        if changed := archive.testzip():
            raise ValueError(f"{changed} in it has another checksum")
        for member in members:
            if member.filename.endswith("/data.pkl"):
                pickled.check(archive.read(member), objects=False)


def _damaged(path: Path, error: Exception) -> Damaged:
    said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return Damaged(f"cannot read {path} ({said}): delete it, and the run starts again from "
                   "what else is stored")


def restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Give SGD or Adam a stored state. Raises ValueError where that does not fit; torch would find out at the next step."""
    names = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}[type(optimizer).__name__]
    for old, new in zip(optimizer.param_groups, state["param_groups"], strict=True):
        if {k: type(v) for k, v in old.items()} != {k: type(v) for k, v in new.items()}:
            raise ValueError("its optimizer has other options")
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    for k, values in state["state"].items():
        fits = values.keys() == names and all(
            v is None or v.shape in ((), weights[k].shape) and v.is_floating_point()
            and v.untyped_storage().nbytes() >= v.nbytes for v in values.values())
        if not fits:
            raise ValueError("its optimizer is of other weights")
    optimizer.load_state_dict(state)


class Checkpoint:
    """Where a long piece of work keeps its state, and the one before; with no ``path`` it keeps none.

    ``purpose`` says in words what the work is: a state of other work is not taken for it.
    """

    def __init__(self, path: Path | None, purpose: str):
        self.path, self.purpose, self.stored = path and Path(path), purpose, time.monotonic()
        self.before = self.path and self.path.with_name(f"{self.path.stem}-before{self.path.suffix}")

    def load(self, take: Callable[[dict], object] = lambda state: state):
        """What ``take`` makes of the last state, or where that is damaged of the one before, with a warning; None if
        there is none. A state that ``take`` cannot use is damaged, too. Raises CheckpointError as ``load`` does if no
        state that is there can be used."""
        there = [p for p in (self.path, self.before) if p is not None and p.exists()]
        for path in there:
            try:
                return self._use(path, take)
            except Damaged as error:
                if not path.exists():               # another run of the same work has just moved it on
                    return self.load(take)
                if path == there[-1]:
                    raise
                warnings.warn(f"{error}. This time it goes on from {self.before}, stored before", stacklevel=2)
        return None

    def _use(self, path: Path, take: Callable[[dict], object]):
        state = load(path, self.purpose)
        try:
            return take(state)
        except Exception as error:      # raises anything where what is in it is not what ``keep`` was given
            raise _damaged(path, error) from error

    def keep(self, state: dict, end: bool) -> None:
        """Store ``state``, at the ``end`` of the work always, before it at most every ``EVERY`` seconds."""
        if self.path is not None and (end or time.monotonic() - self.stored >= EVERY):
            save(self.path, state, self.purpose, self.before)
            self.stored = time.monotonic()
