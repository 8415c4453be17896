"""A short fuzz campaign; ``python tests/fuzz.py`` is the long one."""

import re
import time
from collections import Counter

import numpy as np
import pytest

import fuzz
import fuzz_subjects
from nas_lib.results import root


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


def test_what_is_told_is_kept(tmp_path, capsys):
    fuzz.tell({"a reader": Counter(read=12, hang=1)}, fuzz.OUTCOMES, "13 files", time.time() - 60, tmp_path / "told.txt")
    told = (tmp_path / "told.txt").read_text()
    assert told == capsys.readouterr().out
    head, row, summary, where = told.splitlines()
    assert tuple(head.split()) == fuzz.OUTCOMES and len(head) == len(row) and summary == "13 files"
    assert row.split() == ["a", "reader", "0", "12", "0", "0", "0", "1", "0", "0"]
    assert re.fullmatch(r"commit .*, python .*, torch .*, cpu .*; 20..-..-.., 6\d s", where)


def test_the_campaigns_that_the_book_shows_were_whole_and_without_a_fault():
    files, faults = ((root() / f"book/reference/tried/{name}.txt").read_text() for name in ("files", "faults"))
    assert int(re.search(r"^(\d+) files", files, re.MULTILINE)[1]) >= 2000 and "read, 0 faults" in files
    hits = re.search(r"^(\d+) faults and (\d+) whole workflows killed .*: 0 results lost or changed$", faults, re.MULTILINE)
    assert int(hits[1]) >= 200 and int(hits[2]) >= 2
