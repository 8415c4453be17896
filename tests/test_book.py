"""The built book in a real browser without a network: every chart draws, the console stays empty."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import altair as alt
import nbformat
import pandas as pd
import pytest
from docutils import nodes
from nbformat import v4

from browser import Browser, needs_browser
from nas_lib import bookext, charts, figures, tables, takeaway
from nas_lib.results import root
from nas_lib.spaces.published_cells import CELLS

STATE = """(() => {
  const charts = [...document.querySelectorAll(".nas-chart")];
  const text = document.querySelector(".nas-chart .role-legend-label text, .nas-chart .role-axis-title text");
  return { states: charts.map((c) => c.dataset.state || "untouched"), ink: text && getComputedStyle(text).fill,
           marks: charts.map((c) => c.querySelectorAll("svg [aria-roledescription], canvas").length),
           wide: document.documentElement.scrollWidth - innerWidth };
})()"""
SETTLED = """[...document.querySelectorAll(".nas-chart")].every((c) => ["live", "error"].includes(c.dataset.state))"""


AXE = next((p for p in (Path(os.environ.get("AXE_CORE", "")), root() / "node_modules/axe-core/axe.min.js") if p.is_file()), None)
needs_axe = pytest.mark.skipif(AXE is None, reason="no axe-core: `npm install axe-core`, or name its axe.min.js in $AXE_CORE")
BARRIERS = """axe.run(document, {resultTypes: ["violations"]}).then((found) => found.violations.filter(
  (v) => ["serious", "critical"].includes(v.impact)).map((v) => v.id + ": " + v.nodes.length + " such as " + v.nodes[0].html))"""


LOOKS = ((390, "light"), (390, "dark"), (1400, "dark"), (1400, "light"))
FIRST = """new MutationObserver((_, watch) => { if (!document.querySelector(".nas-chart[data-state=live]")) return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.first = performance.now(); }));
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] })"""


def visit(pages: list[Path], folder: Path) -> dict[Path, dict]:
    """How each page looks, narrow and wide, in the light and in the dark, and all that it wrote to the console."""
    folder.mkdir(exist_ok=True)
    found = {}
    with Browser(folder) as browser:
        page = browser.open("about:blank")
        for path in pages:
            page.complaints.clear()
            page.size(390, 800)
            page.go(path.as_uri())
            page.wait(SETTLED)
            seen = {LOOKS[0]: page.run(STATE)}
            for width, theme in LOOKS[1:]:
                page.size(width, 800)
                page.run(f"document.documentElement.dataset.theme = '{theme}'")
                page.run("new Promise((resolve) => setTimeout(resolve, 20))")
                page.wait(SETTLED)
                seen[width, theme] = page.run(STATE)
            found[path] = {"seen": seen, "console": list(page.complaints)}
    return found


def faults(pages: list[Path], folder: Path) -> list[str]:
    """What is wrong with the pages: charts missing, empty or alike in both themes; too wide; console lines."""
    wrong = []
    for path, page in visit(pages, folder).items():
        expected, seen = path.read_text("utf8").count('class="nas-chart"'), page["seen"]
        for (width, theme), look in seen.items():
            name, live = f"{path.name}, {width} px, {theme}", look["states"].count("live")
            wrong += [f"{name}: {live} of {expected} charts drawn"] * (live != expected)
            wrong += [f"{name}: a chart without marks"] * (0 in look["marks"])
            wrong += [f"{name}: {look['wide']} px too wide"] * (look["wide"] > 0)
            wrong += [f"{name}: no dark theme"] * (theme == "dark" and look["ink"] is not None and look["ink"] == seen[width, "light"]["ink"])
        wrong += [f"{path.name}: {line}" for line in page["console"]]
    return wrong


def first_charts(pages: list[Path], folder: Path) -> dict[str, float]:
    """Milliseconds after which each page with charts has painted the first one. To be looked at: no test asks for a time."""
    found = {}
    with Browser(folder) as browser:
        for path in pages:
            if 'class="nas-chart"' in path.read_text("utf8"):
                page = browser.open("about:blank", 1400)
                page.call("Page.addScriptToEvaluateOnNewDocument", source=FIRST)
                page.go(path.as_uri())
                page.wait("window.first")
                found[path.stem] = page.run("window.first")
                page.close()
    return found


def dangling(book: Path) -> set[str]:
    """Links of a built book to files of its own that are not there."""
    found = set()
    for page in pages(book):
        links = {unquote(link.partition("#")[0].partition("?")[0]) for link in re.findall(r'(?:href|src)="([^"#:]+)"', page.read_text("utf8"))}
        found |= {f"{page.name}: {link}" for link in links if link and not (page.parent / link).exists()}
    return found


def lost(book: Path, word: str, folder: Path) -> list[str]:
    """What is wrong with the search for a word that the book has."""
    folder.mkdir(exist_ok=True)
    with Browser(folder) as browser:
        page = browser.open(f"{(book / 'search.html').as_uri()}?q={word}")
        page.wait("document.querySelector('#search-results p')?.innerText.includes('found')")
        hits = page.run("document.querySelectorAll('#search-results li').length")
        return page.complaints + [f"{word} is not found"] * (hits == 0)


def barriers(pages: list[Path], folder: Path) -> list[str]:
    """What axe-core calls serious or critical on these pages, narrow in the light and wide in the dark."""
    found = []
    with Browser(folder) as browser:
        for width, dark in ((390, False), (1400, True)):
            page = browser.open("about:blank", width, dark=dark)
            for path in pages:
                page.go(path.as_uri())
                page.wait(SETTLED)
                page.wait("!document.getAnimations().some((a) => a.playState === 'running')")    # colours fade in
                page.run(f"{AXE.read_text('utf8')}; 0")
                found += [f"{path.name}, {width} px: {v}" for v in page.run(BARRIERS)]
    return found


def pages(folder: Path) -> list[Path]:
    """All pages of a built book."""
    return [page for page in sorted(folder.rglob("*.html")) if "_static" not in page.parts]


def output(thing) -> dict:
    """A notebook output as a kernel would store it."""
    if isinstance(thing, alt.TopLevelMixin):
        data = charts.render(thing.to_dict())
    else:
        data = {"text/html": thing.to_html(), "text/plain": "table"}
    return v4.new_output("execute_result", data=data, execution_count=1)


@pytest.fixture(scope="module")
def book(tmp_path_factory, evaluation, choices) -> Path:
    """A small book with the project's settings: one results page, one run page."""
    charts.enable("book")
    top = tmp_path_factory.mktemp("book")
    (top / "book/report/runs").mkdir(parents=True)
    shutil.copy(root() / "_config.yml", top)
    shutil.copytree(root() / "book/_static", top / "book/_static")
    shown = [figures.curves(evaluation), figures.reliance_bars(choices.reliance),
             figures.cell("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|"),
             tables.combinations(choices.accuracy)]
    given = v4.new_code_cell('campaign = "cifar10-cpu"', metadata={"tags": ["parameters"]})
    cells = [v4.new_markdown_cell("# Results\n\n{numref}`fig-0`: $\\alpha_e$ and\n\n$$\\sum_e \\alpha_e$$"), given]
    for i, thing in enumerate(shown):
        figure = {"mystnb": {"figure": {"caption": f"Chart {i}", "name": f"fig-{i}"}}} if i < 2 else {}
        cells.append(v4.new_code_cell("chart", execution_count=1, outputs=[output(thing)],
                                      metadata={"tags": ["hide-input"], **figure}))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), top / "book/index.ipynb")
    picked = figures.chooser({f"a cell whose name is longer than a narrow page is wide, {n}": text for n, text in CELLS["s0"].items()})
    run = [v4.new_markdown_cell("# Stage 1"), given, v4.new_code_cell("chart", outputs=[output(shown[2]), output(picked)])]
    nbformat.write(v4.new_notebook(cells=run, metadata=kernel),
                   top / "book/report/runs/stage1-cifar10-gdas-s0.ipynb")
    (top / "book/_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n  - glob: report/runs/*\n")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book", "-W", "--keep-going"]
    done = subprocess.run(command, cwd=top, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return top / "_build/html"


def test_pages_are_complete(book):
    page = (book / "index.html").read_text("utf8")
    assert page.count('class="nas-chart"') == 3
    assert page.count("<math") == 2
    assert "Figure 1" in page and "population std over n = 3 seeds" in page
    assert '<table class="nas-table' in page and 'caption-number">Table 1' in page


def test_run_pages_are_titled_by_their_run(book):
    assert "<title>stage1-cifar10-gdas-s0" in (book / "report/runs/stage1-cifar10-gdas-s0.html").read_text("utf8")
    assert "stage1-cifar10-gdas-s0" in (book / "index.html").read_text("utf8")


def test_a_page_leads_to_the_runs_behind_its_numbers(book):
    """To their pages, else to their results: the book may show the runs of another campaign."""
    page = (book / "index.html").read_text("utf8")
    assert 'href="report/runs/stage1-cifar10-gdas-s0.html">stage1-cifar10-gdas-s0<' in page
    assert 'href="downloads/cifar10-cpu-stage2-cifar10-gdas-s0.nc">' in page
    assert (book / "downloads/cifar10-cpu-stage2-cifar10-gdas-s0.nc").is_file()
    assert "The runs behind it" not in (book / "genindex.html").read_text("utf8")


def test_pages_without_charts_do_not_load_the_bundle(book):
    assert "nas-vega.js" in (book / "index.html").read_text("utf8")
    assert "nas-vega.js" not in (book / "genindex.html").read_text("utf8")


@needs_browser
def test_charts_draw_without_a_network(book, tmp_path):
    assert not faults(pages(book), tmp_path / "browser")


@needs_browser
def test_search_works_without_a_network(book, tmp_path):
    assert not lost(book, "chart", tmp_path)


@needs_browser
def test_pages_tell_when_the_first_chart_is_there(book, tmp_path):
    found = first_charts(pages(book), tmp_path)
    assert set(found) == {"index", "stage1-cifar10-gdas-s0"} and min(found.values()) > 0


@needs_browser
def test_charts_and_tables_shrink_a_little_before_they_scroll(book, tmp_path):
    shrunk = """[...document.querySelectorAll(".nas-chart")].map((chart) => { const svg = chart.querySelector("svg.marks");
      return [svg.getBoundingClientRect().width / svg.getAttribute("width"), chart.scrollWidth - chart.clientWidth]; })"""
    size = "parseFloat(getComputedStyle(document.querySelector('.nas-table td')).fontSize)"
    with Browser(tmp_path) as browser:
        page = browser.open((book / "index.html").as_uri(), 390)
        page.wait(SETTLED)
        narrow, found = page.run(size), page.run(shrunk)
        assert all(scale > 0.749 and (hidden <= 0 or scale < 0.751) for scale, hidden in found) and min(found)[0] < 1
        page.size(1400, 900)
        assert narrow < page.run(size)


@needs_browser
def test_a_long_list_leaves_room_for_the_button(book, tmp_path):
    with Browser(tmp_path) as browser:
        page = browser.open((book / "report/runs/stage1-cifar10-gdas-s0.html").as_uri(), 390)
        page.wait(SETTLED)
        assert page.run("""(() => { const chart = document.querySelector("select").closest(".nas-chart"), at = (name) =>
          chart.querySelector(name).getBoundingClientRect();
          return at("select").right <= at("summary").left && chart.scrollWidth <= chart.clientWidth; })()""")


def test_a_heading_of_several_rows_leaves_the_columns_in_place():
    rows = pd.MultiIndex.from_product([["a", "b"], ["x", "y"]])
    made = bookext._table(takeaway.read_table(pd.DataFrame({"n": [1, 1, 2, 2], "m": [1, 1, 2, 2]}, rows).to_html()), None, None)
    (body,) = made.findall(nodes.tbody)
    assert [[cell.astext() for cell in row] for row in body] == [[a, x, n, n] for (a, x), n in zip(rows, "1122", strict=True)]


@needs_browser
def test_buttons_have_names_and_what_scrolls_can_be_reached(book, tmp_path):
    with Browser(tmp_path) as browser:
        page = browser.open((book / "index.html").as_uri(), 390)
        page.wait(SETTLED)
        assert page.run("[...document.querySelectorAll('summary')].every((s) => s.getAttribute('aria-label'))")
        page.run("document.body.insertAdjacentHTML('beforeend', '<div class=nas-math id=wide><p style=\"width: 3000px\">x</p></div>')")
        page.size(400, 800)
        page.wait("document.getElementById('wide').tabIndex === 0")
        page.run("document.getElementById('wide').firstChild.style.width = '10px'")
        page.size(410, 800)
        page.wait("document.getElementById('wide').tabIndex === -1")


@needs_browser
@needs_axe
def test_no_serious_barrier(book, tmp_path):
    assert not barriers(pages(book), tmp_path)


def test_check_sees_a_link_to_nothing(book, tmp_path):
    (tmp_path / "a.html").write_text('<a href="a.html#x">here</a> <a href="https://nowhere.example/b.html">out</a> <a href="runs/b%20c.html">lost</a>')
    assert dangling(tmp_path) == {"a.html: runs/b c.html"} and not dangling(book)


@needs_browser
def test_check_sees_a_broken_page(book, tmp_path):
    broken = tmp_path / "broken.html"
    page = (book / "index.html").read_text("utf8").replace('"nas-spec">{', '"nas-spec">{{', 1)
    broken.write_text(page.replace("_static/", f"{(book / '_static').as_uri()}/"), "utf8")
    found = faults([broken], tmp_path / "browser")
    assert {f"broken.html, {width} px, {theme}: 2 of 3 charts drawn" for width, theme in LOOKS} <= set(found)
    assert any("JSON" in fault for fault in found)


@needs_browser
def test_the_book_itself(tmp_path):
    built = root() / "_build/html"
    if not (built / "index.html").is_file():
        pytest.skip("no book built yet: run `snakemake --profile notebooks/profiles/local` first")
    assert not faults(pages(built), tmp_path / "browser")
    assert not lost(built, "dirichlet", tmp_path)
    assert not dangling(built)
    assert not [page.name for page in pages(built) if page.stat().st_size > 3e6]


@needs_browser
@needs_axe
def test_no_serious_barrier_in_the_book_itself(tmp_path):
    built = root() / "_build/html"
    if not (built / "index.html").is_file():
        pytest.skip("no book built yet: run `snakemake --profile notebooks/profiles/local` first")
    runs = sorted((built / "report/runs").glob("*.html"))
    assert not barriers([p for p in pages(built) if p not in runs[1:]], tmp_path)
