"""When a state is stored, and for whom it is read."""

import pytest
import torch

from nas_lib import checkpoint
from nas_lib.checkpoint import Checkpoint, CheckpointError, Damaged


def test_a_state_is_stored_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint, "EVERY", 5.0)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    kept = Checkpoint(tmp_path / "a" / "state.pt", "a test")
    assert kept.load() is None
    found = []
    for now[0] in (1.0, 4.9, 5.0, 9.0, 10.5, 11.0):
        kept.keep({"at": now[0]}, end=now[0] == 11.0)
        found.append((kept.load() or {"at": None})["at"])
    assert found == [None, None, 5.0, 5.0, 10.5, 11.0]


def test_without_a_place_nothing_is_stored():
    kept = Checkpoint(None, "a test")
    kept.keep({"x": torch.ones(1)}, end=True)
    assert kept.load() is None


def test_the_state_of_other_work_is_not_taken(tmp_path):
    Checkpoint(tmp_path / "state.pt", "one").keep({"x": 1}, end=True)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        Checkpoint(tmp_path / "state.pt", "other").load()


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path):
    path = tmp_path / "state.pt"
    for at in range(3):
        Checkpoint(path, "a test").keep({"at": at}, end=True)
    kept = Checkpoint(path, "a test")
    assert kept.load() == {"at": 2}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="goes on from .*state-before.pt"):
        assert kept.load() == {"at": 1}
    kept.keep({"at": 3}, end=True)                  # the damaged one is the one before now
    path.unlink()
    with pytest.raises(Damaged, match="delete it"):
        kept.load()


def test_killed_between_two_names_nothing_is_lost(tmp_path):
    path = tmp_path / "state.pt"
    kept = Checkpoint(path, "a test")
    kept.keep({"at": 0}, end=True)
    path.rename(kept.before)
    assert kept.load() == {"at": 0}
