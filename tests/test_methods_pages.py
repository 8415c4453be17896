"""The pages on single methods: each method has one, each page its table, and the audit names every defect."""

import re
from dataclasses import fields

import nbformat
import numpy as np
import pytest
import xarray as xr

from nas_lib import method_pages, methods
from nas_lib.metrics import DIFFERENCES
from nas_lib.protocol import Protocol
from nas_lib.results import root

BOOK = root() / "book"
PAGES = sorted((BOOK / "methods").glob("*.md"))


@pytest.fixture(scope="module")
def summary(evaluation, choices):
    """A campaign without ``jacob_cov``."""
    ties = xr.ones_like(choices.accuracy)
    whole = evaluation.merge(choices.assign(choice_ties=ties)).sel(stage2=["prune", "valid", "synflow"])
    return whole.assign_coords(dataset="digits")


def test_every_method_has_a_page_and_every_page_a_method():
    found = method_pages.pages()
    assert set(found) == {(stage, name) for stage in method_pages.STAGES for name in methods.names(stage)}
    assert set(found.values()) == set(PAGES)
    assert all(page.name.startswith(stage) for (stage, _), page in found.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_shows_its_own_table_and_types_no_measurement(page):
    text = page.read_text("utf8")
    assert f"```{{glue:}} {page.stem}\n:doc: ../report/page_methods.ipynb\n```" in text
    named = re.findall(r"`(nas_lib/[\w/]+\.py)`", text)
    assert named and all((root() / file).is_file() for file in named)
    assert not re.search(r"\d\.\d+ ?%|\d ± ", text)
    assert len(text.splitlines()) < 60


def test_a_method_without_a_page_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(method_pages, "where", lambda path: tmp_path)
    with pytest.raises(ValueError, match=r"no page in book/methods names `nas_lib/stage1/blank.py`: write one"):
        method_pages.pages()


def test_measurements(summary):
    found = method_pages.measurements(summary)
    assert list(found) == [page.stem for page in PAGES]
    rsps = found["stage1_rsps"].data
    assert rsps.columns.tolist() == ["rsps", "rsps+"]
    assert rsps.loc["Spearman of shared-weight with true accuracy", "rsps"].startswith(
        f"{summary.spearman.sel(stage1='rsps').mean().item():.2f} ± ")
    valid = found["stage2_valid"].data
    gain = summary.reliance.sel(stage2="valid", difference="R_U-N_U").mean().item()
    assert valid.loc["reliance on the weights, uniform law: R_U − N_U (points)", "valid"].startswith(f"{gain:.2f} ± ")
    learned = 100 - summary.accuracy.sel(stage2="valid", stage1=["darts", "gdas"]).mean().item()
    assert valid.loc["test error, mean over Stage-1 methods that learn (%)", "valid"].startswith(f"{learned:.2f} ± ")
    assert "-p method fairnas" in found["stage1_fairnas"].data.iloc[0, 0]
    assert "select: [jacob_cov]" in found["stage2_jacob_cov"].data.iloc[0, 0]


def test_overview(summary):
    table = method_pages.overview(summary).data
    assert len(table) == sum(len(methods.names(stage)) for stage in method_pages.STAGES)
    row = table.loc['<a href="../methods/stage1_darts_minus.md">darts-</a>']
    assert row["file"] == "<code>stage1/darts_minus.py</code>" and row["law"] == row["weights"] == "–"
    gain = summary.reliance.sel(stage2="valid", difference="R_U-N_U").mean().item()
    assert table.loc['<a href="../methods/stage2_valid.md">valid</a>', "weights"] == f"{gain:+.2f} points"
    law = summary.expected_accuracy.sel(stage1="gdas").mean().item()
    assert table.loc['<a href="../methods/stage1_gdas.md">gdas</a>', "law"] == f"{law:.2f} %"


def test_order_of_reliance(summary):
    """The headings follow the differences by name, not by place."""
    means = method_pages.measured(summary, "stage2")["mean"].sel({"method": "synflow"})
    by_name = [summary.reliance.sel(stage2="synflow", difference=f"{a}-{b}").mean().item() for a, b in DIFFERENCES]
    np.testing.assert_allclose(means[:4], by_name)


def test_the_audit_names_every_defect_and_flag():
    cells = nbformat.read(root() / "notebooks/page_audit.ipynb", 4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert [int(n) for n in re.findall(r"^\| \*\*D(\d+)\*\*", text, re.MULTILINE)] == list(range(1, 28))
    assert all(f"`{f.name}`" in text for f in fields(Protocol))
    figures = [c.metadata["mystnb"]["figure"]["name"] for c in cells if "mystnb" in c.metadata]
    assert set(re.findall(r"\{numref\}`([\w-]+)`", text)) <= set(figures)
