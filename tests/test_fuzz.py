"""A short fuzz campaign; ``python tests/fuzz.py`` is the long one."""

import numpy as np
import pytest

import fuzz
import fuzz_subjects


def test_mutated_files_give_one_clear_error_or_are_read(tmp_path):
    counts, faults = fuzz.campaign(files=50, seed=0, show=0)
    assert not faults, faults[0]
    assert sum(c.total() for c in counts.values()) >= 45 and len(counts) > 20
    assert all(sum(c.values()) == c["error"] + c["read"] for c in counts.values())
    assert sum(c["error"] for c in counts.values()) > 20


@pytest.mark.parametrize("read, outcome", [
    (lambda f: (f / "../up").mkdir(), "execution"), (lambda f: __import__("os").system("true"), "execution"),
    (lambda f: 1 / 0, "unclear"), (lambda f: np.ones(1 << 26).sum(), "memory"), (lambda f: __import__("os").kill(__import__("os").getpid(), 9), "crash"),
    (lambda f: (_ for _ in ()).throw(AssertionError("no")), "wrong"), (lambda f: [x for x in iter(int, 1)], "hang"),
    (lambda f: (f / "inside").mkdir(), "read")])
def test_what_a_reader_must_not_do_is_seen(tmp_path, monkeypatch, read, outcome):
    monkeypatch.setattr(fuzz, "SECONDS", 1 if outcome == "hang" else 60)
    monkeypatch.setattr(fuzz, "MEMORY", 1 << 28)
    subject = fuzz_subjects.Subject("made up", b"", read)
    assert fuzz.one(subject, b"", tmp_path / "case")[0] == outcome
