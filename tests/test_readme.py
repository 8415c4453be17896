"""The README keeps its word: its examples work, its commands and paths exist."""

import re

import pytest

from nas_lib.experiments import Setup, stage1, stage2
from nas_lib.results import root

TEXT = (root() / "README.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, source in EXAMPLES.items():
        (tmp_path / name).write_text(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(folder, **changes):
    return Setup(channels=1, cells=1, epochs=1, batch=512, cache=str(folder / "cache"), **changes)


def test_there_are_two_examples():
    assert list(EXAMPLES) == ["sharpened.py", "leanest.py"]


def test_the_examples_are_those_of_the_notebook():
    for name, source in EXAMPLES.items():
        assert (root() / "notebooks/own" / name).read_text() == source


def test_stage1_example(folder):
    run = stage1(tiny(folder, method="sharpened.py", hyper={"power": 2.0}), folder / "1.nc", images=0)
    assert run.stage1 == "sharpened" and run.probs.sum("op").values == pytest.approx(1)
    assert run.sizes["epoch"] == 1


def test_stage2_example(folder):
    run = stage2(tiny(folder, method="gdas"), folder / "2.nc", select=["leanest.py"], candidates=20)
    assert run.stage2.item() == "leanest"
    assert run.candidate_score.max() > run.candidate_score.min()


def test_two_commands():
    lines = [line for line in TEXT.splitlines() if line.startswith("python3 -m venv")]
    start = "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt && "
    assert lines == [start + "snakemake --profile notebooks/profiles/local", start + "pytest"]


def test_paths_exist():
    made = ("results", "_build")
    named = {p.rstrip("/") for p in re.findall(r"(?:notebooks|nas_lib|book|tests)/[\w./-]*", TEXT)}
    missing = [p for p in named if not p.startswith(made) and p != "notebooks/campaigns/mine.yaml"
               and not (root() / p).exists()]
    assert not missing
