"""A device has one run at most, whoever started it, and a run that ends in any way gives its device back."""

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing import connection

import pytest
import torch

from nas_lib import data, devices, experiments
from nas_lib.experiments import Setup

FORK = multiprocessing.get_context("fork")      # children have what a test has replaced here


@pytest.fixture
def two(monkeypatch):
    """A machine with two devices of its own."""
    names = [f"test-{os.getpid()}-{time.monotonic_ns()}-{i}" for i in range(2)]
    monkeypatch.setattr(devices, "visible", lambda: names)
    monkeypatch.setattr(devices, "WAIT", 0.05)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    forget = devices.claim.cache_clear
    forget()
    yield names
    forget()


class Run:
    """A process that claims a device, says which, and keeps it until it is stopped."""

    def __init__(self):
        self.ear, mouth = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self.go, args=(mouth,), daemon=True)
        self.process.start()

    @staticmethod
    def go(mouth):
        devices.claim.cache_clear()     # like a process that starts anew
        devices.claim()
        mouth.send(os.environ.get("CUDA_VISIBLE_DEVICES"))
        time.sleep(60)

    def device(self, seconds=30):
        assert self.ear.poll(seconds), "no device"
        return self.ear.recv()

    def waits(self):
        return not self.ear.poll(0.5)

    def end(self, by="kill"):
        getattr(self.process, by)()
        self.process.join(30)


@pytest.fixture
def start():
    """Runs, all of which have ended when the test has."""
    runs = []
    yield lambda: runs.append(Run()) or runs[-1]
    for run in runs:
        run.end()


@pytest.mark.parametrize("by", ["terminate", "kill"])
def test_one_run_on_each_device_and_the_next_waits_for_an_end(two, start, by):
    runs = {r.device(): r for r in (start(), start())}
    assert set(runs) == {"0", "1"}
    third, fourth = start(), start()
    assert third.waits() and fourth.waits()
    runs["1"].end(by)
    ready = connection.wait([third.ear, fourth.ear], 30)
    next_, last = (third, fourth) if ready == [third.ear] else (fourth, third)
    assert next_.device() == "1" and last.waits()
    runs["0"].end(by)
    assert last.device() == "0"


def test_a_device_is_taken_from_those_that_were_chosen_before(two, start, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5c,3")
    assert {start().device(), start().device()} == {"GPU-5c", "3"}


def test_one_device_goes_by_its_identity_whatever_its_number(two, start, monkeypatch):
    """Number 0 where the user shows the second only, and number 1 where all are seen, are the same."""
    monkeypatch.setattr(devices, "visible", lambda: two[1:])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert start().device() == "1"
    monkeypatch.setattr(devices, "visible", lambda: two)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert start().device() == "0" and start().waits()


def test_a_process_that_has_used_cuda_claims_the_device_it_is_on(two, start, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert start().device() == "1" and start().waits()


def test_runs_share_devices_where_asked_to_and_spread_first(two, start, monkeypatch):
    monkeypatch.setenv("NAS_RUNS_PER_GPU", "2")
    runs = [start() for _ in range(2)]
    assert sorted(r.device() for r in runs) == ["0", "1"]
    more = [start() for _ in range(2)]
    places = [r.device() for r in more]
    assert sorted(places) == ["0", "1"]
    last = start()
    assert last.waits()
    more[0].end()
    assert last.device() == places[0]


@pytest.mark.parametrize("share", ["0", "-1", "two", "", "1.5"])
def test_no_number_of_runs(two, share, monkeypatch):
    monkeypatch.setenv("NAS_RUNS_PER_GPU", share)
    with pytest.raises(ValueError, match="number of runs that share a device"):
        devices.claim()


def test_a_process_claims_once(two, start):
    mine = devices.claim()
    assert devices.claim() is mine and os.environ.pop("CUDA_VISIBLE_DEVICES") == "0"
    assert start().device() == "1"
    mine.close()


def test_without_a_device_nothing_happens(two, monkeypatch):
    monkeypatch.setattr(devices, "visible", list)
    assert devices.claim() is None and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_run_on_cuda_claims_before_it_touches_the_device(two, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(devices, "claim", lambda: order.append("claim"))
    monkeypatch.setattr(data, "load", lambda name, device, **_: order.append(device))
    for device in ("cuda", "cpu", "cuda:1"):
        experiments._prepare(Setup(device=device, cache=str(tmp_path)), tmp_path / "out.nc")
    assert order == ["claim", "cuda", "cpu", "cuda:1"]


def test_the_devices_are_those_that_cuda_has(monkeypatch):
    """Without any, an empty list. With some, a claimed process sees one."""
    assert len(devices.visible()) == torch.cuda.device_count()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.visible() == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_claimed_device_is_the_only_one_that_is_seen():
    code = ("import torch; from nas_lib.devices import claim; claim(); torch.zeros(1, device='cuda');"
            " print(torch.cuda.device_count())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split()[-1:] == ["1"], done.stderr
