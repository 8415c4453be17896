"""Sphinx extension of the book: charts and mathematics without a network, run pages titled by their run.

Enabled in ``_config.yml``; ``VegaLite`` is found by MyST-NB through the entry point in ``pyproject.toml``.
"""

from __future__ import annotations

import html
import json
from pathlib import Path, PurePosixPath

from docutils import nodes
from docutils.utils.math import latex2mathml

from nas_lib.charts import MIME, VEGA_LITE

RUNS = "report/runs"
# The theme and one extension report every page load in the browser's console; without that, whatever
# stands there is a fault.
QUIET = ("const log = console.log; console.log = (...words) => "
         "/^\\[(PST|togglebutton)\\]/.test(words[0]) || log(...words);")


class VegaLite:
    """MyST-NB plug-in: writes a chart's specification into the page, for ``book_charts.js`` to draw."""

    mime_priority_overrides = [(builder, MIME, 5) for builder in ("html", "dirhtml", "singlehtml")]

    @staticmethod
    def handle_mime(renderer, data, inline):
        if inline or data.mime_type != MIME:
            return None
        spec = json.loads(data.content) if isinstance(data.content, str) else data.content
        text = json.dumps(spec, separators=(",", ":")).replace("</", "<\\/")  # must not end the script
        words = html.escape(spec.get("description", "Chart"))
        page = (f'<div class="nas-chart"><script type="application/json" class="nas-spec">{text}</script>'
                f"<noscript>{words} (drawing it needs JavaScript)</noscript></div>")
        # Not the theme's class for HTML outputs: it paints them light grey in dark mode.
        return [nodes.raw(text=page, format="html", classes=["output", "vegalite"])]


def write_scripts(app) -> None:
    """The Vega bundle and the drawing script, into the built book's ``_static``."""
    import vl_convert

    out = Path(app.outdir) / "_static"
    out.mkdir(parents=True, exist_ok=True)
    # The bundle is an ES module: loaded as a plain script its top-level names collide with Sphinx's.
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)
    (out / "nas-vega.js").write_text("(()=>{" + bundle + "})();\n", encoding="utf8")
    script = Path(__file__).with_name("book_charts.js").read_text("utf8")
    (out / "nas-charts.js").write_text(script, encoding="utf8")


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


def _fold_parameters(app, docname, source):
    """Fold the cell of parameters that papermill injected, as the other code cells of a page are."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "injected-parameters" in tags and "hide-input" not in tags:
            tags.append("hide-input")
    source[0] = json.dumps(notebook)


def setup(app) -> dict:
    """Connect the above to Sphinx."""
    app.add_js_file(None, body="{" + QUIET + "}", priority=0)
    app.connect("source-read", _fold_parameters)
    app.connect("builder-inited", write_scripts)
    app.connect("html-page-context", load_scripts)
    app.connect("doctree-read", title_run, priority=100)  # before Sphinx collects the titles
    app.add_html_math_renderer("mathml", (mathml(False), None), (mathml(True), None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
