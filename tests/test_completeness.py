"""Every output of the paper has a place, and a place counts only if the executed page has something there."""

import nbformat
import pytest
import yaml
from nbformat import v4

from nas_lib import completeness, takeaway
from nas_lib.charts import MIME
from nas_lib.results import root

PAGES = yaml.safe_load((root() / "notebooks/campaigns/quick.yaml").read_text("utf8"))["pages"]


def template(page: str) -> dict:
    return nbformat.read(root() / f"notebooks/{page}.ipynb", 4)


def test_every_output_has_a_place():
    found = {p.output for page in PAGES for p in completeness.places(page, template(page))}
    assert not set(completeness.OUTPUTS) - found


def test_every_label_is_one_of_its_page():
    for page in PAGES:
        cells = template(page).cells
        labels = {c.metadata.get("mystnb", {}).get("figure", {}).get("name") or c.id for c in cells if c.cell_type == "code"}
        assert {p.label for p in completeness.places(page, template(page))} <= labels


def test_every_run_at_the_papers_size_has_a_campaign():
    made = completeness.makers()
    assert {o for o, campaigns in made.items() if not campaigns} == set(completeness.TEXT)
    for campaign in {c for campaigns in made.values() for c in campaigns}:
        assert yaml.safe_load((root() / f"notebooks/campaigns/{campaign}.yaml").read_text("utf8"))["parameters"]["device"] == "cuda"


@pytest.mark.parametrize("kind", completeness.KINDS)
def test_an_unknown_output_is_refused(kind, tmp_path, monkeypatch):
    page = v4.new_notebook(cells=[v4.new_code_cell("1", metadata={kind: ["T9"]})])
    with pytest.raises(ValueError, match="page_x, cell .*no 'T9'"):
        completeness.places("page_x", page)
    (tmp_path / "notebooks/campaigns").mkdir(parents=True)
    (tmp_path / "notebooks/campaigns/mine.yaml").write_text("makes: [T9]")
    monkeypatch.setattr(completeness, "where", lambda p: tmp_path / p)
    with pytest.raises(ValueError, match="mine.yaml: .*no 'T9'"):
        completeness.makers()


def executed(shows, data=None, kind="shows", **cell):
    """A page of one executed cell."""
    outputs = [v4.new_output("execute_result", data=data)] if data else []
    code = v4.new_code_cell("chart", id="one", outputs=outputs, metadata={kind: shows}, **cell)
    given = v4.new_code_cell("campaign: str = 'nowhere'\ndataset: str = 'digits'", metadata={"tags": ["parameters"]})
    return v4.new_notebook(cells=[given, code])


def row(pages: dict, output: str) -> list[str]:
    """The row of an output, as text."""
    found = takeaway.read_table(completeness.table(pages).to_html())
    return next([c.text for c in cells] for cells in found.grid("body") if cells[0].text == output)


ROWS = "<table><thead><tr><th></th><th>verdict</th></tr></thead><tbody><tr><th>C1</th><td>{}</td></tr></tbody></table>"


def test_a_place_needs_an_executed_chart_or_table():
    assert row({"page_a": executed(["T2"])}, "T2")[2] == "not run"
    assert row({"page_a": executed(["T2"], {"text/markdown": "not run"})}, "T2")[2] == "not run"
    assert row({"page_a": executed(["T2"], {MIME: "{}"})}, "T2")[2:4] == ["one", "nowhere: digits"]
    failed = executed(["T2"], {MIME: "{}"})
    failed.cells[1].outputs.append(v4.new_output("error", ename="E", evalue="", traceback=[]))
    assert row({"page_a": failed}, "T2")[2] == "not run"


def test_what_a_table_calls_not_computable_was_not_run():
    assert row({"page_a": executed(["C1"], {"text/html": ROWS.format("holds")})}, "C1")[2] == "one"
    assert row({"page_a": executed(["C1"], {"text/html": ROWS.format("not computable")})}, "C1")[2] == "not run"


def test_what_is_printed_is_not_what_was_run():
    pages = {"page_a": executed(["T1", "T4"], {"text/html": ROWS.format("1.0")}, kind="prints")}
    assert row(pages, "T1")[2:] == ["not run", "–", "one",
                                    "snakemake --profile notebooks/profiles/local --configfile notebooks/campaigns/case-study-paper.yaml"]
    assert row(pages, "T4")[2:] == ["–", "the paper's text", "one", "nothing to run"]
    assert "not run: T1, T2" in completeness.table(pages).to_html()


def test_the_command_names_the_page_and_its_data_set():
    pages = {"page_combinations": executed(["T5"], {MIME: "{}"})}
    assert row(pages, "T5")[5].endswith("papermill notebooks/page_combinations.ipynb T5.ipynb -p campaign paper -p dataset cifar100")
