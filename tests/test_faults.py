"""A short fault campaign, and a workflow killed with all that it started; ``python tests/faults.py`` is the long one."""

import os
import secrets
import subprocess
import time
from contextlib import suppress

import psutil
import pytest

import faults
from nas_lib import checkpoint
from nas_lib.checkpoint import Checkpoint, CheckpointError


def test_whatever_stops_a_run_its_result_is_the_same():
    counts, wrong = faults.campaign(faults=12, seed=0)
    assert not wrong, wrong[0]
    assert sum(c.total() for c in counts.values()) >= 12


def test_nothing_that_a_process_started_outlives_its_kill():
    """Not what has a session of its own, as kernels have, nor what is started in the meantime."""
    script = "for k in 1 2 3; do setsid bash -c 'while true; do sleep 300 & sleep 0.01; done' & done; wait"
    run = subprocess.Popen(["bash", "-c", script], env={"PATH": os.environ["PATH"], "MARK": (mark := secrets.token_hex(8))})
    while len(psutil.Process(run.pid).children(recursive=True)) < 9:
        time.sleep(0.01)
    faults.kill_all(run)
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            left += [process] * (process.environ().get("MARK") == mark)
    for process in left:
        process.kill()
    assert not left


@pytest.mark.slow
def test_everything_killed_the_same_command_finishes(tmp_path):
    """No lock is left, nothing has to be deleted, and the results are those of a run that was left alone."""
    hits, wrong = faults.workflow(tmp_path, kills=1, seed=0, whole=False)
    assert hits and not wrong, wrong[0]


def test_a_folder_that_turns_read_only_while_a_state_is_written(tmp_path, monkeypatch):
    """Not even the temporary file can be removed then."""
    kept = Checkpoint(tmp_path / "state.pt", "a test")
    kept.keep({"at": 0}, end=True)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    for name in ("replace", "unlink"):
        monkeypatch.setattr(checkpoint.os, name, refuse)
    with pytest.raises(CheckpointError, match="choose a folder that can be written"):
        kept.keep({"at": 1}, end=True)
    assert kept.load() == {"at": 0}


@pytest.mark.parametrize("name", ["training", "ranking", "selection"])
def test_the_same_run_started_twice_at_once(tmp_path, name):
    """Both end, with one result, that of a run alone; in one folder, and so with one cache."""
    work, whole = faults.works()[name], []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        children = [faults.start(work, folder) for _ in range(number)]
        assert [faults.ended(child) for child in children] == [0] * number, (tmp_path / f"{number}.said").read_text()
        whole.append((folder / "result.nc").read_bytes())
        assert not list(folder.glob(".*"))
    assert whole[0] == whole[1]


@pytest.mark.slow
def test_two_snakemakes_at_once_make_one_good_result(tmp_path):
    """One of them does the work, the other says so."""
    runs = [faults.begin(faults.clone(tmp_path)), faults.begin(tmp_path)]
    said = [run.communicate(timeout=600)[0] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1], "".join(said)
    assert sum("another Snakemake works on results/tiny: its results are there when it ends" in text for text in said) == 1
    assert len(list(tmp_path.glob("results/tiny/*.nc"))) == 3


@pytest.mark.filterwarnings("ignore:cannot read .*goes on from")
def test_two_processes_store_the_same_work_at_once(tmp_path):
    """Whoever is last, a whole state is there, and neither of them fails."""
    def store(state):
        for _ in range(60):
            checkpoint.save(tmp_path / "state.pt", {"x": state}, "a test", tmp_path / "state-before.pt")
        return 0

    children = []
    for number in (1, 2):
        if not (child := os.fork()):
            os._exit(store(number) if number else 1)
        children.append(child)
    seen = set()
    while children:
        done, status = os.waitpid(children[-1], os.WNOHANG)
        if done:
            assert status == 0
            children.pop()
        if any(tmp_path.glob("state*.pt")):
            seen.add(Checkpoint(tmp_path / "state.pt", "a test").load(lambda state: state["x"]))
    assert seen <= {1, 2, None} and len(list(tmp_path.iterdir())) == 2
