"""The workflow, seen dry: which jobs it has, and that its campaign and the notebooks agree."""

import ast
import os
import subprocess
import sys

import nbformat
import pytest
import yaml

from nas_lib.experiments import IMAGES
from nas_lib.results import root

CAMPAIGNS = root() / "notebooks/campaigns"


def dry(*options, tmp_path):
    """A dry run in a folder that looks like a fresh clone."""
    for name in ("notebooks", "book", "_config.yml", "nas_lib"):
        (tmp_path / name).symlink_to(root() / name)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "notebooks/profiles/local", "-n", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in (done.stdout + done.stderr).splitlines()]
    return {r[0]: int(r[1]) for r in rows if len(r) == 2 and r[1].isdigit()}


def test_quick_campaign(tmp_path):
    quick = yaml.safe_load((CAMPAIGNS / "quick.yaml").read_text())
    runs = len(quick["stage1"]) * len(quick["seeds"])
    pages = len(quick["pages"])
    assert dry(tmp_path=tmp_path) == {"stage1": runs, "stage2": runs, "summary": 1, "page": pages, "book": 1,
                                      "all": 1, "total": 2 * runs + pages + 3}


@pytest.mark.parametrize("name, data", [("quick-paper", 1), ("cifar10-cpu", 1), ("cifar10-cpu-paper", 1), ("paper", 3)])
def test_a_campaign_without_pages_ends_with_its_summaries(name, data, tmp_path):
    said = yaml.safe_load((CAMPAIGNS / f"{name}.yaml").read_text())
    runs = data * len(said["stage1"]) * len(said["seeds"])
    assert dry("--configfile", f"notebooks/campaigns/{name}.yaml", tmp_path=tmp_path) == {
        "stage1": runs, "stage2": runs, "summary": data, "all": 1, "total": 2 * runs + data + 1}


def test_a_method_given_as_a_file_goes_by_its_name(tmp_path):
    mine = yaml.safe_load((CAMPAIGNS / "quick-paper.yaml").read_text())
    mine |= {"stage1": ["notebooks/own/sharpened.py"], "seeds": [3]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    assert dry("--configfile", str(tmp_path / "mine.yaml"), tmp_path=tmp_path)["total"] == 4


def test_a_campaign_on_several_data_sets(tmp_path):
    """Names with hyphens, of data sets and of methods, are told apart."""
    mine = yaml.safe_load((CAMPAIGNS / "quick-paper.yaml").read_text())
    mine |= {"data": ["cifar10", "ImageNet16-120"], "stage1": ["darts", "darts-"], "seeds": [3, 4]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    jobs = dry("--configfile", str(tmp_path / "mine.yaml"), tmp_path=tmp_path)
    assert jobs == {"stage1": 8, "stage2": 8, "summary": 2, "all": 1, "total": 19}


def test_a_ranking_that_is_cut(tmp_path):
    """Of two runs of each method, only those are cut that are scored: into three parts, after the training."""
    mine = yaml.safe_load((CAMPAIGNS / "cifar10-cpu.yaml").read_text())
    mine |= {"stage1": ["none", "darts-"], "seeds": [3, 4], "ranking": mine["ranking"] | {"parts": 3}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    jobs = dry("--configfile", str(tmp_path / "mine.yaml"), tmp_path=tmp_path)
    assert jobs == {"part": 2 * (1 + 3), "stage1": 4, "stage2": 4, "summary": 1, "all": 1, "total": 18}


@pytest.mark.parametrize("name", ["quick", "cifar10-cpu"])
def test_both_protocols_run_the_same_campaign(name):
    quick, paper = (yaml.safe_load((CAMPAIGNS / f"{n}.yaml").read_text()) for n in (name, f"{name}-paper"))
    assert set(quick["stage1"]) <= set(paper["stage1"])
    differ = {k for k in quick if quick[k] != paper[k]}
    assert differ - {"pages"} == {"campaign", "stage1", "unscored", "parameters", "own"}
    assert quick["parameters"] | {"protocol": "paper"} == paper["parameters"]
    assert quick["own"].items() <= paper["own"].items()


def test_truth_campaign(tmp_path):
    truth = yaml.safe_load((CAMPAIGNS / "embedded-truth.yaml").read_text())
    jobs = dry("--configfile", "notebooks/campaigns/embedded-truth.yaml", tmp_path=tmp_path)
    assert jobs["shard"] == truth["shards"] * len(truth["seeds"]) and jobs["table"] == 1


@pytest.mark.parametrize("notebook, keys", [
    ("stage1", ["parameters", "ranking"]), ("stage2", ["parameters"])])
def test_quick_campaign_is_the_notebooks_default(notebook, keys):
    """One run by hand, with nothing changed, must be the run of the campaign."""
    quick = yaml.safe_load((CAMPAIGNS / "quick.yaml").read_text())
    cells = nbformat.read(root() / f"notebooks/{notebook}.ipynb", 4).cells
    source = next(c.source for c in cells if c.metadata.get("tags") == ["parameters"])
    default = {n.target.id: ast.literal_eval(n.value) for n in ast.parse(source).body}
    if default.get("images", 0) is None:
        default["images"] = IMAGES
    for key in keys:
        assert {k: default[k] for k in quick[key]} == quick[key]


def test_campaigns_give_only_what_notebooks_take():
    for campaign, notebook in (("quick", "stage2"), ("paper", "stage2"), ("embedded-truth", "standalone")):
        given = yaml.safe_load((CAMPAIGNS / f"{campaign}.yaml").read_text())["parameters"]
        cells = nbformat.read(root() / f"notebooks/{notebook}.ipynb", 4).cells
        source = next(c.source for c in cells if c.metadata.get("tags") == ["parameters"])
        assert set(given) <= {n.target.id for n in ast.parse(source).body}
