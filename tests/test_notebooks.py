"""The notebook templates: their form, and that they run from either folder and refuse what is unknown."""

import ast
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nbformat
import numpy as np
import pytest

from nas_lib import results

FOLDER = results.root() / "notebooks"
TEMPLATES = sorted(FOLDER.glob("*.ipynb"))
TINY = {"epochs": 1, "batch": 512, "channels": 1, "candidates": 5, "select": ["prune", "synflow"]}


def papermill(name, cwd, executed, **parameters):
    """Run a template as its user would; the finished process."""
    given = {k: str(v) if hasattr(v, "parent") else v for k, v in parameters.items()}
    return subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", str(FOLDER / name),
         str(executed), "-y", json.dumps(given)],
        cwd=cwd, capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NAS_CHARTS": "book"})


@pytest.fixture(params=TEMPLATES, ids=lambda p: p.stem)
def template(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_there_are_templates():
    assert {"stage1", "stage2", "standalone"} <= {p.stem for p in TEMPLATES}


def test_form(template):
    nbformat.validate(template)
    assert template.metadata.kernelspec.name == "python3"
    assert [c.metadata.get("tags", []).count("parameters") for c in code(template)].count(1) == 1
    assert template.cells[0].cell_type == "markdown" and template.cells[0].source.startswith("# ")


def test_no_outputs(template):
    assert not any(c.outputs or c.execution_count for c in code(template))


def test_cells_hold_calls_only(template):
    for cell in code(template):
        if "parameters" in cell.metadata.get("tags", []):
            continue
        assert len(cell.source.splitlines()) <= 12, cell.source
        kinds = {type(n) for n in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}, cell.source
        assert "sys.path" not in cell.source


def test_parameters_are_explained(template):
    cell = next(c for c in code(template) if "parameters" in c.metadata.get("tags", []))
    assert all("  # " in line and ":" in line.split("=")[0] for line in cell.source.splitlines())


def test_stages_share_the_supernet_parameters():
    """A supernet parameter with two different defaults would silently train two supernets."""
    def defaults(name):
        cells = code(nbformat.read(FOLDER / name, 4))
        cell = next(c for c in cells if c.metadata.get("tags") == ["parameters"])
        return {n.target.id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}

    one, two = defaults("stage1.ipynb"), defaults("stage2.ipynb")
    differ = {k for k in one.keys() & two.keys() if one[k] != two[k]}
    assert not differ
    assert set(one) - set(two) == {"images", "views", "scoring", "part", "parts"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Both stages, from the repository root and from the notebooks' own folder, each with its own cache."""
    tmp = tmp_path_factory.mktemp("runs")

    def both(cwd):
        place = tmp / cwd.name
        common = {"method": "gdas", "seed": 3, "cache": place / "cache"}
        size = {k: TINY[k] for k in ("epochs", "batch", "channels")}
        one = papermill("stage1.ipynb", cwd, tmp / f"{cwd.name}-1.ipynb", images=8, out=place / "1.nc",
                        **common, **size)
        assert one.returncode == 0, one.stderr[-3000:]
        two = papermill("stage2.ipynb", cwd, tmp / f"{cwd.name}-2.ipynb", out=place / "2.nc",
                        **common, **TINY)
        assert two.returncode == 0, two.stderr[-3000:]
        return results.read(place / "1.nc"), results.read(place / "2.nc"), list((place / "cache").iterdir())

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(both, [results.root(), FOLDER]))


def test_stages_run(executed):
    one, two, cache = executed[0]
    assert one.score.sizes == {"arch": 15625} and one.score.notnull().all()
    assert np.exp(one.log_prob).sum() == pytest.approx(1)
    assert one.sizes["epoch"] == 1 and one.seed == 3 and one.stage1 == "gdas"
    assert two.choice.sizes == {"stage2": 2} and two.choice.dtype == np.int64
    assert len(cache) == 1, "Stage 2 trained a supernet of its own"


def test_same_result_from_both_folders(executed):
    for here, there in zip(executed[0][:2], executed[1][:2], strict=True):
        clocks = [v for v in here if v.endswith("seconds")]
        assert here.drop_vars(clocks).equals(there.drop_vars(clocks))
        assert here.attrs["config"] == there.attrs["config"]


def test_unknown_things_end_in_one_clear_error(tmp_path):
    asked = {"method": ({"method": "dart"}, "unknown stage1 method 'dart'; built-in: ['blank'"),
             "parameter": ({"epoch": 3}, "unknown parameter epoch; this notebook has alpha_lr")}
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda a: papermill("stage1.ipynb", tmp_path, tmp_path / f"{a[0]}.ipynb",
                                                  out=tmp_path / "no.nc", **a[1][0]), asked.items()))
    for done, (_, message) in zip(ended, asked.values(), strict=True):
        assert done.returncode == 1
        assert message in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "no.nc").exists()
