"""The built book in a real browser without a network: every chart draws, the console stays empty."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import altair as alt
import nbformat
import pytest
from nbformat import v4

from nas_lib import charts, figures, tables
from nas_lib.results import root

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH to see the pages")

# Visits every page in one browser and both themes. What it found is written into its own page, for Python
# to read; the console lines of a page stand between two "visiting" lines.
DRIVER = """<!doctype html><meta charset="utf8"><pre id="found"></pre><script>
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function settle(charts) {
  const busy = (chart) => !["live", "error"].includes(chart.dataset.state);
  for (let i = 0; i < 400 && charts.some(busy); i++) await sleep(50);
}
async function visit(url) {
  console.info("visiting " + url);
  const frame = document.createElement("iframe");
  frame.width = 1200; frame.height = 800; frame.src = url;
  await new Promise((resolve) => { frame.onload = resolve; document.body.append(frame); });
  const root = frame.contentDocument.documentElement, charts = [...root.querySelectorAll(".nas-chart")];
  const page = { url, states: [], marks: [], ink: [] };
  for (const theme of ["light", "dark"]) {
    await settle(charts);
    root.dataset.theme = theme;
    await sleep(50); await settle(charts);
    page.states.push(...charts.map((c) => c.dataset.state || "untouched"));
    page.marks.push(...charts.map((c) => c.querySelectorAll("svg [aria-roledescription]").length));
    const text = root.querySelector(".nas-chart .role-legend-label text, .nas-chart .role-axis-title text");
    page.ink.push(text && getComputedStyle(text).fill);
  }
  frame.remove();
  return page;
}
(async () => {
  const found = [];
  for (const url of PAGES) found.push(await visit(url));
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


def visit(pages: list[Path], folder: Path) -> tuple[list[dict], dict[str, list[str]]]:
    """What the driver found on each page, and the console lines of each; no host can be reached."""
    folder.mkdir(exist_ok=True)
    driver = folder / "driver.html"
    driver.write_text(DRIVER.replace("PAGES", json.dumps([p.as_uri() for p in pages])), "utf8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
         "--virtual-time-budget=10000000", "--dump-dom", driver.as_uri()],
        capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the browser did not finish:\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    console, url = {}, ""
    for line in re.findall(r"CONSOLE.*", done.stderr):
        start = re.search(r'"visiting (.+?)"', line)
        url = start.group(1) if start else url
        console.setdefault(url, []).extend([] if start else [line])
    return json.loads(html.unescape(found.group(1))), console


def faults(pages: list[Path], folder: Path) -> list[str]:
    """What is wrong with the pages: charts missing, empty or alike in both themes; console lines."""
    found, console = visit(pages, folder)
    wrong = []
    for path, page in zip(pages, found, strict=True):
        expected = 2 * path.read_text("utf8").count('class="nas-chart"')
        live = page["states"].count("live")
        wrong += [f"{path.name}: {live} of {expected} charts drawn"] * (live != expected)
        wrong += [f"{path.name}: a chart without marks"] * (0 in page["marks"])
        wrong += [f"{path.name}: no dark theme"] * (live > 0 and page["ink"][0] == page["ink"][1])
        wrong += [f"{path.name}: {line}" for line in console[path.as_uri()]]
    return wrong


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
    cells = [v4.new_markdown_cell("# Results\n\n{numref}`fig-0`: $\\alpha_e$ and\n\n$$\\sum_e \\alpha_e$$")]
    for i, thing in enumerate(shown):
        figure = {"mystnb": {"figure": {"caption": f"Chart {i}", "name": f"fig-{i}"}}} if i < 2 else {}
        cells.append(v4.new_code_cell("chart", execution_count=1, outputs=[output(thing)],
                                      metadata={"tags": ["hide-input"], **figure}))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), top / "book/index.ipynb")
    run = [v4.new_markdown_cell("# Stage 1"), v4.new_code_cell("chart", outputs=[output(shown[2])])]
    nbformat.write(v4.new_notebook(cells=run, metadata=kernel),
                   top / "book/report/runs/stage1-digits-gdas-s0.ipynb")
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
    assert "<title>stage1-digits-gdas-s0" in (book / "report/runs/stage1-digits-gdas-s0.html").read_text("utf8")
    assert "stage1-digits-gdas-s0" in (book / "index.html").read_text("utf8")


def test_pages_without_charts_do_not_load_the_bundle(book):
    assert "nas-vega.js" in (book / "index.html").read_text("utf8")
    assert "nas-vega.js" not in (book / "genindex.html").read_text("utf8")


@needs_browser
def test_charts_draw_without_a_network(book, tmp_path):
    assert not faults(pages(book), tmp_path / "browser")


@needs_browser
def test_check_sees_a_broken_page(book, tmp_path):
    broken = tmp_path / "broken.html"
    page = (book / "index.html").read_text("utf8").replace('"nas-spec">{', '"nas-spec">{{', 1)
    broken.write_text(page.replace("_static/", f"{(book / '_static').as_uri()}/"), "utf8")
    found = faults([broken], tmp_path / "browser")
    assert "broken.html: 0 of 6 charts drawn" in found
    assert any("CONSOLE" in fault for fault in found)


@needs_browser
def test_the_book_itself(tmp_path):
    built = root() / "_build/html"
    if not (built / "index.html").is_file():
        pytest.skip("no book built yet: run `snakemake --profile notebooks/profiles/local` first")
    every = pages(built)
    for first in range(0, len(every), 10):          # a browser at a time, so that none runs into its limit
        assert not faults(every[first:first + 10], tmp_path / f"browser-{first}")
