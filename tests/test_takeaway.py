"""What a reader takes away: the files that belong to a page, and how to cite the project."""

import tomllib

import pytest
import yaml
from nbformat import v4

from nas_lib import takeaway
from nas_lib.results import root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with results of two campaigns and a truth table."""
    for name in ("results/quick/summary-digits.nc", "results/quick/stage1-digits-gdas-s0.nc",
                 "book/reference/audit/summary-digits.nc", "nas_lib/embedded/digits.nc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr("nas_lib.results.root", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("given, expected", [
    ({"campaign": "quick", "out": "results/quick/stage1-digits-gdas-s0.nc"}, {"stage1-digits-gdas-s0.nc"}),
    ({"campaign": "quick", "dataset": "digits", "evidence": "audit", "seeds": [0]},
     {"quick-summary-digits.nc", "audit-summary-digits.nc"}),
    ({"campaign": "quick", "out": ""}, {"quick-summary-digits.nc"}),
    ({"dataset": "digits"}, {"digits.nc"}),
    ({"dataset": "letters"}, set())])
def test_result_sets_of_a_page(given, expected, folder):
    found = takeaway.result_sets(given)
    assert set(found) == expected and all(path.is_file() for path in found.values())


@pytest.mark.parametrize("given, expected", [
    ({"campaign": "quick", "out": "results/quick/stage1-digits-gdas-s0.nc"}, []),
    ({"campaign": "quick", "dataset": "digits", "same": "quick", "evidence": "audit", "out": "", "seeds": [0]},
     [("quick", "stage1-digits-gdas-s0.nc")]),
    ({"dataset": "digits"}, [])])
def test_runs_behind_a_page(given, expected, folder):
    assert [(campaign, path.name) for campaign, path in takeaway.runs(given)] == expected


def test_parameters_that_were_injected_win():
    cells = [v4.new_code_cell("a: int = 1  # one\nb: str = 'x'", metadata={"tags": ["parameters"]}),
             v4.new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}), v4.new_code_cell("a = f(3)", metadata={})]
    assert takeaway.parameters(v4.new_notebook(cells=cells)) == {"a": 2, "b": "x"}


def test_the_citation_is_that_of_this_project():
    said = yaml.safe_load((root() / "book/CITATION.cff").read_text("utf8"))
    book = yaml.safe_load((root() / "_config.yml").read_text("utf8"))
    package = tomllib.loads((root() / "nas_lib/pyproject.toml").read_text("utf8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(said)
    assert said["version"] == package["version"] and said["title"] == book["title"]
    assert [a["name"] for a in said["authors"]] == [book["author"]]
