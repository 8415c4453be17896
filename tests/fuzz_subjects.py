"""What ``fuzz`` changes, and how: for every reader a good file, and endless changes of it."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

TRICKS = ["../../planted", "/planted", "..", "", "a\x00b", "-rf", "a\nb", "x" * 3000, "~/planted", "con", "a/../../b", "é" * 90]
WRONG = [None, True, -1, 0, 1 << 31, -(1 << 63), 1e300, float("nan"), "", "nonsense", b"\x00", [], {}, [[1], [2, 3]], {"a": {}}, 2.5]
SIZES = [b"\xff" * 4, b"\xff" * 8, b"\x00\x00\x00\x7f", (1 << 40).to_bytes(8, "little"), (1 << 40).to_bytes(8, "big"), b"\x00" * 8]


class Planted:
    """What is unpickled by calling ``os.mkdir``."""

    def __reduce__(self):
        return os.mkdir, ("planted",)


@dataclass
class Subject:
    """A reader, and a file or the files that it reads without complaint."""

    name: str
    content: bytes | dict                                       # a file, or the files of a folder by their names
    read: Callable[[Path], object]                              # raises AssertionError for what was read wrongly
    place: str = "file"                                         # of the file in its folder
    crafted: Callable[[np.random.Generator], object] | None = None      # other content, well formed
    sealed: Callable | None = None                              # (content, change): changed inside, its checksums right
    share: float = 1.0                                          # of the files
    also: dict = field(default_factory=dict)                    # other files that are there, unchanged
    seal: Callable[[Path, bytes], None] | None = None           # writes what vouches for the file beside it

    def write(self, folder: Path, content) -> Path:
        folder.mkdir(exist_ok=True)
        files = content if isinstance(content, dict) else {self.place: content}
        for name, data in (self.also | files).items():
            try:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
                if self.seal:
                    self.seal(folder / name, data)
            except (OSError, ValueError):       # no file can have such a name
                pass
        return folder

    def cases(self, rng: np.random.Generator) -> Iterator[tuple[str, object]]:
        """Pairs of how it was changed, and what came of it."""
        ways = [w for w, there in (("bytes", True), ("sealed", self.sealed), ("crafted", self.crafted)) if there]
        if not isinstance(self.content, bytes | dict):
            ways = ["crafted"]
        while True:
            for way in ways:
                if way == "crafted":
                    yield way, self.crafted(rng)
                elif isinstance(self.content, dict):
                    name = str(rng.choice(list(self.content)))
                    if rng.random() < 0.2:
                        yield "name", {k: v for k, v in self.content.items() if k != name} | {
                            f"{Path(name).parent}/{rng.choice(TRICKS)}{Path(name).suffix}": self.content[name]}
                    yield way, self.content | {name: self.changed(rng, self.content[name], way)}
                else:
                    yield way, self.changed(rng, self.content, way)

    def changed(self, rng, content: bytes, way: str) -> bytes:
        if way == "bytes":
            return mutated(rng, content)
        return self.sealed(content, lambda inner: mutated(rng, inner), rng)


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """A cut, flipped bits, other lengths, repeated or foreign bytes; more often near the beginning, where sizes stand."""
    data = bytearray(content)
    at = int(len(data) * rng.random() ** rng.choice([1, 4, 8]))
    how = rng.integers(9)
    if how == 0:
        return bytes(data[:at])
    if how in (1, 2, 3):
        for _ in range((1, 1, 30)[how - 1]):
            if data:
                data[min(at, len(data) - 1)] ^= 1 << rng.integers(8)
            at = int(rng.integers(max(len(data), 1)))
    elif how in (4, 5):
        new = SIZES[rng.integers(len(SIZES))]
        data[at:at + len(new)] = new
    elif how == 6:
        data[at:at + int(rng.integers(1, 200))] = rng.bytes(int(rng.integers(200)))
    elif how == 7:
        data += bytes(data[at:]) if rng.random() < 0.5 else rng.bytes(500)
    else:
        heads = [b"\x80\x02", b"\x80\x04\x95", b"BZh9", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x89HDF\r\n\x1a\n", b"MATLAB 5.0", b"\x93NUMPY"]
        return heads[rng.integers(len(heads))] + bytes(data[at:at + 5000])
    return bytes(data)


def altered(rng: np.random.Generator, value, plant=True):
    """``value`` of nested dicts and lists with one thing in it of another type, shape or name, gone, or a planted call."""
    if isinstance(value, dict | list | tuple) and len(value) and rng.random() < 0.93:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[rng.integers(len(keys))]
        if isinstance(value, dict):
            new, roll = dict(value), rng.random()
            if roll < 0.08:
                del new[key]
            elif roll < 0.14:
                new[str(rng.choice(TRICKS))] = new.pop(key)
            else:
                new[key] = altered(rng, value[key], plant)
            return new
        new = list(value)
        new[key] = altered(rng, value[key], plant)
        return type(value)(new) if type(value) in (list, tuple) else new
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        return reshaped(rng, value)
    if isinstance(value, np.ndarray) and rng.random() < 0.7:
        return reshaped(rng, torch.from_numpy(np.ascontiguousarray(value)), huge=False).numpy()
    choices = WRONG + [Planted()] * (3 if plant else 0)
    return choices[rng.integers(len(choices))]


def reshaped(rng, t: torch.Tensor, huge=True) -> torch.Tensor:
    """Of another shape or type, perhaps one that claims to be huge."""
    return [lambda: t.flatten(), lambda: t[None], lambda: t.double() if t.dtype != torch.float64 else t.long(), lambda: t.reshape(-1)[:0],
            lambda: torch.zeros(1).expand(1 << 20, 1 << 12) if huge else t.T, lambda: t.reshape(-1)[:1], lambda: torch.cat([t[None]] * 2),
            lambda: t.to(torch.complex64), lambda: t.bool()][rng.integers(9)]()


def in_zip(content: bytes, change, rng) -> bytes:
    """A member of an archive changed, with the right checksum, or renamed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    k = int(rng.integers(len(members))) if rng.random() < 0.5 else int(np.argmax([n.endswith((".pkl", ".npy")) for n, _ in members]))
    name, data = members[k]
    members[k] = (str(rng.choice(TRICKS)) or "x", data) if rng.random() < 0.15 else (name, change(data))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            archive.writestr(name.replace("\x00", "0")[:60000], data)
    return out.getvalue()


def in_bz2(content: bytes, change, rng) -> bytes:
    return bz2.compress(change(bz2.decompress(content)), 1)


def in_gzip(content: bytes, change, rng) -> bytes:
    return gzip.compress(change(gzip.decompress(content)), 1)


def in_result(content: bytes, change, rng) -> bytes:
    """A netCDF file as someone would write it who knows the mark."""
    from nas_lib.results import MARK

    inner = change(content[:-len(MARK) - 64])
    return inner + MARK + hashlib.sha256(inner).hexdigest().encode()


def saved(value) -> bytes:
    out = io.BytesIO()
    try:
        torch.save(value, out)
    except Exception:       # what cannot be written cannot be read either
        return b"unwritten"
    return out.getvalue()


def pickled(value, protocol=2) -> bytes:
    return pickle.dumps(value, protocol)


def arrays(**values) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **values)
    return out.getvalue()


def subjects(home: Path) -> list[Subject]:
    """All of them; ``home`` is a folder to make the good files in."""
    import fuzz_files
    import fuzz_states

    # What is forked from here must share no lock: a killed child would keep it for ever.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    makers = (fuzz_states.states, fuzz_states.published, fuzz_states.runs, fuzz_states.parameters, fuzz_files.tables,
              fuzz_files.images, fuzz_files.pictures)
    return [s for make in makers for s in make(home)]
