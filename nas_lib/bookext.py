"""Sphinx extension of the book: charts and mathematics without a network, tables that are numbered and searched, files
to take away, run pages titled by their run.

Enabled in ``_config.yml``; ``VegaLite`` is found by MyST-NB through the entry point in ``pyproject.toml``.
"""

from __future__ import annotations

import html
import json
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes

from nas_lib import takeaway
from nas_lib.charts import MIME, VEGA_LITE

RUNS = "report/runs"
# The theme and one extension report every page load in the browser's console; without that, whatever
# stands there is a fault.
QUIET = ("const log = console.log; console.log = (...words) => "
         "/^\\[(PST|togglebutton)\\]/.test(words[0]) || log(...words);")


class VegaLite:
    """MyST-NB plug-in: a chart's specification, for ``book_charts.js`` to draw; an HTML table as one of the document."""

    mime_priority_overrides = [(builder, MIME, 5) for builder in ("html", "dirhtml", "singlehtml")]

    @staticmethod
    def handle_mime(renderer, data, inline):
        own = data.output_metadata.get("nas_lib", {})
        if inline or data.mime_type not in (MIME, "text/html"):
            return None
        if data.mime_type == MIME:
            return [_chart(data.content), *_links(own)]
        table = takeaway.read_table(data.string)
        return [_table(table, own.get("label"), renderer.renderer), *_links(own)] if table else None


def _chart(spec) -> nodes.Node:
    spec = json.loads(spec) if isinstance(spec, str) else spec
    text = json.dumps(spec, separators=(",", ":")).replace("</", "<\\/")  # must not end the script
    words = html.escape(spec.get("description", "Chart"))
    page = (f'<div class="nas-chart"><script type="application/json" class="nas-spec">{text}</script>'
            f"<noscript>{words} (drawing it needs JavaScript)</noscript></div>")
    # Not the theme's class for HTML outputs: it paints them light grey in dark mode.
    return nodes.raw(text=page, format="html", classes=["output", "vegalite"])


def _links(own: dict) -> list[nodes.Node]:
    """A row of links to the files of an output."""
    links = " ".join(f'<a href="{html.escape(path)}" download aria-label="Download as {kind.upper()}">{kind.upper()}</a>'
                     for kind, path in own.get("files", {}).items())
    return [nodes.raw(text=f'<p class="nas-take">{links}</p>', format="html")] if links else []


def _table(table: takeaway.Table, label: str | None, renderer) -> nodes.table:
    """A table that Sphinx numbers, lists under ``label`` and searches, unlike raw HTML."""
    numeric = table.numeric()
    stubs = [cell.tag.name == "th" for cell in table.grid("body")[0]]
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1, stub=stub) for stub in stubs), cols=len(stubs))
    for part, name in ((nodes.thead, "head"), (nodes.tbody, "body")):
        rows = part()
        for cells in table.grid(name):      # what spans rows is repeated: docutils loses count of the columns behind it
            row = nodes.row()
            for _, spanned in groupby(enumerate(cells), lambda cell: id(cell[1])):
                (at, cell), *more = spanned
                entry = nodes.entry("", nodes.paragraph("", "", *_inline(cell.tag, cell.style, renderer)))
                entry["classes"] = ["number" if numeric[at] else "words"]
                if more:
                    entry["morecols"] = len(more)
                row += entry
            rows += row
        group += rows
    node = nodes.table("", *([nodes.title(text=table.caption)] if table.caption else []), group,
                       classes=["nas-table", "colwidths-auto"])
    if label and table.caption:
        node["names"].append(nodes.fully_normalize_name(label))
        renderer.document.note_explicit_target(node, node)
    return node


def _inline(tag, style: str, renderer) -> list[nodes.Node]:
    """The text of a cell with its links and code; ``page.ipynb#label`` becomes the number of what has that label."""
    found = []
    for child in tag.children:
        if isinstance(child, str):
            found.append(nodes.Text(" ".join(child.replace("\xa0", " ").split(" "))))
        elif child.name == "a":
            found.append(_reference(child["href"], child.get_text(), renderer))
        elif child.name == "code":
            found.append(nodes.literal(text=child.get_text()))
        else:
            found += _inline(child, "", renderer)
    wrap = {"bold": nodes.strong, "italic": nodes.emphasis}.get(style)
    return [wrap("", "", *found)] if wrap else found


def _reference(href: str, text: str, renderer) -> nodes.Node:
    page, _, label = href.partition("#")
    if not page.endswith((".ipynb", ".md")):
        return nodes.reference(text, text, refuri=href)
    to = {"reftype": "numref", "reftarget": label, "refexplicit": False} if label else {
        "reftype": "doc", "reftarget": page.rpartition(".")[0], "refexplicit": True}
    return addnodes.pending_xref("", nodes.inline(text=text), refdomain="std", refwarn=True,
                                 refdoc=renderer.sphinx_env.docname, **to)


def write_scripts(app) -> None:
    """The Vega bundle and the scripts of charts and pages, into the built book's ``_static``."""
    import vl_convert

    out = Path(app.outdir) / "_static"
    out.mkdir(parents=True, exist_ok=True)
    # The bundle is an ES module: loaded as a plain script its top-level names collide with Sphinx's.
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)
    (out / "nas-vega.js").write_text("(()=>{" + bundle + "})();\n", encoding="utf8")
    for name in ("charts", "page"):
        script = Path(__file__).with_name(f"book_{name}.js").read_text("utf8")
        (out / f"nas-{name}.js").write_text(script, encoding="utf8")


def load_scripts(app, pagename, templatename, context, doctree) -> None:
    """Only pages with charts load the bundle (0.9 MB)."""
    if "nas-chart" in (context.get("body") or ""):
        app.add_js_file("nas-vega.js", loading_method="defer")
        app.add_js_file("nas-charts.js", loading_method="defer")


def title_run(app, doctree) -> None:
    """Title every page under ``report/runs`` by its file name: runs of one template share a heading."""
    page = PurePosixPath(app.env.docname)
    title = next(iter(doctree.findall(nodes.title)), None)
    if str(page.parent) == RUNS and title is not None:
        title.children = []
        title += nodes.Text(page.name)


def mathml(block: bool):
    """Visitor that writes a formula as MathML; Sphinx's default loads MathJax from a CDN."""
    def visit(self, node):
        text = latex2mathml.tex2mathml(node.astext(), as_block=block)
        self.body.append(f'<div class="nas-math">{text}</div>' if block else text)
        raise nodes.SkipNode
    return visit


def prepare(app, docname, source) -> None:
    """Fold the cell of parameters that papermill injected, and write the files that the outputs of a page offer."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook, page = json.loads(source[0]), PurePosixPath(docname)
    parameters = takeaway.parameters(notebook)
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if "injected-parameters" in tags and "hide-input" not in tags:
            tags.append("hide-input")
        for output in cell.get("outputs", []):
            output.setdefault("metadata", {})["nas_lib"] = _offer(app, page, cell, output)
    if sets := takeaway.result_sets(parameters):
        links = " ".join(f'<a href="{_put(app, page, name, path.read_bytes())}" download>{name}</a>'
                         for name, path in sets.items())
        notebook["cells"].append({"cell_type": "markdown", "id": "result-sets", "metadata": {}, "source":
                                  f'<p class="nas-take">The results shown here (netCDF): {links}</p>'})
    if behind := takeaway.runs(parameters):
        links = " ".join(f'<a href="{_run(app, page, campaign, path)}">{path.stem}</a>' for campaign, path in behind)
        notebook["cells"].append({"cell_type": "markdown", "id": "runs", "metadata": {}, "source":
                                  f'<details><summary>The runs behind it</summary><p class="nas-take">{links}</p></details>'})
    source[0] = json.dumps(notebook)


def _offer(app, page, cell, output) -> dict:
    """Label of a cell's table, and links to the files of its output.

    Pages of runs are neither labelled nor numbered, and their many charts are offered as PNG only: drawing them anew as SVG
    and PDF would take most of the time of a build.
    """
    result = str(page.parent) != RUNS
    label = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") or cell.get("id")
    files = takeaway.files(output.get("data", {}), label, vector=result)
    return {"label": label if result else None,
            "files": {kind: _put(app, page, f"{page.name}/{label}.{kind}", content) for kind, content in files.items()}}


def _put(app, page, name: str, content: bytes) -> str:
    """Write a file of the built book; its address, seen from ``page``."""
    path = Path(app.outdir) / "downloads" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return "../" * len(page.parent.parts) + f"downloads/{name}"


def _run(app, page, campaign: str, path: Path) -> str:
    """Address of the page of a run, seen from ``page``, or of its result if the book shows the runs of another campaign."""
    own = Path(app.srcdir) / RUNS / f"{path.stem}.ipynb"
    if _campaign(own) == campaign:
        return "../" * len(page.parent.parts) + f"{RUNS}/{path.stem}.html"
    return _put(app, page, f"{campaign}-{path.name}", path.read_bytes())


@cache
def _campaign(notebook: Path) -> str | None:
    """The campaign of an executed run; None if there is no such notebook."""
    return takeaway.parameters(json.loads(notebook.read_text("utf8"))).get("campaign") if notebook.is_file() else None


def setup(app) -> dict:
    """Connect the above to Sphinx."""
    app.add_js_file(None, body="{" + QUIET + "}", priority=0)
    app.add_js_file("nas-page.js", loading_method="defer")
    app.connect("source-read", prepare)
    app.connect("builder-inited", write_scripts)
    app.connect("html-page-context", load_scripts)
    app.connect("doctree-read", title_run, priority=100)  # before Sphinx collects the titles
    app.add_html_math_renderer("mathml", (mathml(False), None), (mathml(True), None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
