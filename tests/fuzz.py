"""Mutated files for every reader: each must be read correctly or give one clear error of the project's own.

    python tests/fuzz.py --files 2400 --seed 0

Files are cut, bits flipped, lengths made huge, members of archives changed and sealed again with right checksums, shapes
and types exchanged, calls planted, names given tricks. Each is read in a process of its own, which must end in
``SECONDS``, take no more than ``MEMORY`` bytes beside what it began with, start no program, open no connection and write
nowhere but in its folder. The subjects are in ``fuzz_subjects``.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

import fuzz_subjects
from nas_lib.checkpoint import CheckpointError
from nas_lib.images import ImageError
from nas_lib.methods import UnknownMethod
from nas_lib.official import BenchmarkError
from nas_lib.parameters import ParameterError
from nas_lib.results import ResultError, provenance
from nas_lib.supernet import StateError
from nas_lib.training import TrainingError

OWN = CheckpointError, ImageError, UnknownMethod, BenchmarkError, ParameterError, ResultError, StateError, TrainingError
SECONDS, MEMORY = 10, 1 << 30      # of processor time; on a busy machine ten times that passes
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.startfile", "socket.",
             "pty.", "ctypes.dlopen", "webbrowser.", "code.__new__")
WRITES = {"os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "os.truncate": 0,
          "os.chmod": 0, "shutil.rmtree": 0}


def watch(folder: Path) -> None:
    """End this process, as one that did what no reader may, at the first forbidden event."""
    allowed = (f"{folder}/", "/dev/null")

    def hook(event, args):
        path = args[WRITES[event]] if event in WRITES else None
        if event == "open" and isinstance(args[0], str | bytes) and isinstance(args[2], int) and args[2] & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            path = args[0]
        escapes = path is not None and not f"{os.path.realpath(os.fsdecode(path))}/".startswith(allowed)
        if escapes or event.startswith(FORBIDDEN):
            os.write(2, f"{event} {args}\n".encode())
            os._exit(99)

    sys.addaudithook(hook)


def one(subject, content, folder: Path) -> tuple[str, str]:
    """Outcome of reading mutated ``content``, and what was said."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    said = folder.with_suffix(".said")
    begun = time.monotonic()
    if not (child := os.fork()):
        read(subject, content, folder, said)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(10 * SECONDS)
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    text = said.read_text() if said.exists() else ""
    if time.monotonic() - begun >= 10 * SECONDS or os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return "hang", text
    if os.WIFSIGNALED(status):
        return "crash", f"signal {os.WTERMSIG(status)} {text}"
    return {0: "read", 1: "error", 4: "wrong", 5: "memory", 99: "execution"}.get(os.WEXITSTATUS(status), "unclear"), text


def read(subject, content, folder: Path, said: Path) -> None:
    """In the child: never returns."""
    code, begun = 3, 0
    with open(said, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        try:
            _limit(3 * MEMORY)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
            subject.write(folder, content)
            os.chdir(folder)
            begun = resident()
            watch(folder)
            subject.read(folder)
            code = 0
        except OWN as error:
            code = 1 if remedied(str(error)) else 3
            print(f"{type(error).__name__}: {error}", flush=True)
        except AssertionError as error:
            code = 4
            print(f"read wrongly: {error}", flush=True)
        except BaseException as error:  # noqa: B036  everything else is a fault of the reader
            import traceback
            print(f"{type(error).__name__}: {error}\n{traceback.format_exc()}", flush=True)
        finally:
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os._exit(5 if code < 2 and most > begun + MEMORY else code)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _limit(more: int) -> None:
    """Let this process ask for so much more memory, and no more."""
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + more, resource.RLIM_INFINITY))


def remedied(text: str) -> bool:
    """Whether an error says what to do, or what there is."""
    words = ("delete", "again", "must", "check", "give", "put", "choose", "there ", "built-in", "name", "make", "correct",
             "shuffle", "has ", "have ", "known", "use ", "lower", "works", " are ", " can be ", "expected")
    return any(w in text for w in words) and len(text.splitlines()) <= 3


def campaign(files: int, seed: int, only: str = "", show=3) -> tuple[dict[str, Counter], list[str]]:
    """Outcomes of ``files`` mutated files, by reader, and the first faults."""
    counts, faults = {}, []
    with tempfile.TemporaryDirectory() as home:
        subjects = [s for s in fuzz_subjects.subjects(Path(home)) if only in s.name]
        warnings.simplefilter("ignore")
        for s in subjects:      # unchanged, it is read; what is imported lazily is there for all
            s.read(s.write(Path(home) / f"whole-{s.name}".replace(" ", "-"), s.content))
        before = resource.getrlimit(resource.RLIMIT_AS)
        _limit(4 * MEMORY)
        total = sum(s.share for s in subjects)
        for k, s in enumerate(subjects):
            counts[s.name], cases = Counter(), s.cases(np.random.default_rng([seed, k]))
            for _ in range(max(1, round(files * s.share / total))):
                how, content = next(cases)
                outcome, said = one(s, content, Path(home) / "case")
                counts[s.name][outcome] += 1
                if outcome not in ("read", "error"):
                    faults.append(f"{s.name}, {how} {content[:300] if isinstance(content, bytes) else ''}: {outcome}\n{said[:300]}\n{said[300:][-900:]}")
                    if len(faults) <= show:
                        print(faults[-1], flush=True)
        resource.setrlimit(resource.RLIMIT_AS, before)      # else what is started afterwards would have it, too
    return counts, faults


OUTCOMES = ("error", "read", "unclear", "wrong", "execution", "hang", "crash", "memory")


def tell(counts: dict[str, Counter], columns, summary: str, begun: float, out: Path | None) -> None:
    """Print a table of counts, ``summary`` below it and where that was; into the file ``out``, too."""
    rows = [["", *columns], *([name, *(str(found[c]) for c in columns)] for name, found in counts.items())]
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [name.ljust(first) + "".join(v.rjust(w + 2) for v, w in zip(row, widths, strict=True)) for name, *row in rows]
    origin = provenance(begun, "cpu")
    where = ", ".join(f"{k} {origin.get(k, '?')}" for k in ("commit", "python", "torch", "cpu"))
    text = "\n".join([*lines, summary, f"{where}; {origin['start'][:10]}, {origin['seconds']:.0f} s"])
    print(text, flush=True)
    if out:
        out.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name has this text")
    parser.add_argument("--show", type=int, default=5, help="faults to print")
    parser.add_argument("--out", type=Path, help="file for the counts, too")
    asked = parser.parse_args()
    begun = time.time()
    counts, faults = campaign(asked.files, asked.seed, asked.only, asked.show)
    total = sum(counts.values(), Counter())
    tell(counts, OUTCOMES, f"{total.total()} files (seed {asked.seed}): {total['error']} refused with a clear error, {total['read']} "
         f"read, {len(faults)} faults", begun, asked.out)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
