"""What a reader takes away from the book: a chart as SVG, PNG and PDF, a table as CSV and LaTeX, the result sets.

Made when the book is built, from the outputs that the executed notebooks hold: no page has to be run again for it.
"""

from __future__ import annotations

import ast
import base64
import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from nas_lib.charts import MIME, VEGA_LITE
from nas_lib.results import kept, where

LATEX = str.maketrans({
    **{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "→": r"$\to$", "←": r"$\leftarrow$",
    "α": r"$\alpha$", "β": r"$\beta$", "ρ": r"$\rho$", "τ": r"$\tau$", "λ": r"$\lambda$"})
NUMBER = re.compile(r"[−+-]?\d[^a-z]{0,24}|–?", re.IGNORECASE)      # a value, its deviation and unit, or nothing


@dataclass(frozen=True)
class Cell:
    """One cell of a table: ``tag`` is its HTML element, ``style`` of "", "bold" and "italic" that of its text."""

    tag: object
    style: str
    columns: int = 1
    rows: int = 1

    @property
    def text(self) -> str:
        return " ".join(self.tag.get_text(" ").split())


@dataclass(frozen=True)
class Table:
    """A table of a notebook's output: rows of cells as they stand in its HTML."""

    caption: str
    head: list[list[Cell]]
    body: list[list[Cell]]

    def grid(self, part: str) -> list[list[Cell]]:
        """The rows of ``part`` ("head", "body") with a cell that spans several repeated in each of them."""
        rows: list[dict] = [{} for _ in getattr(self, part)]
        for i, row in enumerate(getattr(self, part)):
            at = 0
            for cell in row:
                while at in rows[i]:
                    at += 1
                spanned = [(r, at + c) for r in range(cell.rows) for c in range(cell.columns)]
                for r, c in spanned:
                    rows[i + r][c] = cell
        return [[row[c] for c in sorted(row)] for row in rows]

    def headings(self) -> list[str]:
        """One heading for each column: those of several header rows are joined."""
        columns = zip(*self.grid("head"), strict=True)
        return [", ".join(dict.fromkeys(c.text for c in column if c.text)) for column in columns]

    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and not words."""
        return [all(NUMBER.fullmatch(c.text) for c in column) for column in zip(*self.grid("body"), strict=True)]


def read_table(html: str) -> Table | None:
    """The first table in ``html``, or None."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    if soup.table is None:
        return None
    marked = {style: {i for rule in soup("style") for names in re.findall(rf"([^{{}}]+){{[^}}]*{style}", rule.get_text())
                      for i in re.findall(r"#(\w+)", names)} for style in ("bold", "italic")}

    def rows(part):
        return [[Cell(c, " ".join(s for s, ids in marked.items() if c.get("id") in ids), int(c.get("colspan", 1)),
                      int(c.get("rowspan", 1))) for c in row(["th", "td"])] for row in part("tr")]
    head = rows(soup.table.thead)
    if len(head) > 1 and not any(c.text for c in head[-1][1:]):     # pandas gives the index's name a row of its own
        named = head.pop()[0]
        head[-1][0] = named if named.text else head[-1][0]
    caption = soup.table.caption
    return Table(" ".join(caption.get_text().split()) if caption else "", head, rows(soup.table.tbody))


def as_csv(table: Table) -> str:
    """Comma-separated values; what is printed as "mean ± std" makes two columns, thousands lose their comma."""
    columns = []
    for heading, numeric, cells in zip(table.headings(), table.numeric(), zip(*table.grid("body"), strict=True), strict=True):
        texts = [re.sub(r"(?<=\d),(?=\d{3})", "", c.text).replace("−", "-") if numeric else c.text for c in cells]
        if numeric and any(" ± " in t for t in texts):
            pairs = [(*t.split(" ± "), "")[:2] for t in texts]
            columns += [[f"{heading} mean", *(m for m, _ in pairs)], [f"{heading} std", *(s for _, s in pairs)]]
        else:
            columns.append([heading, *texts])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["" if t == "–" else t for t in row] for row in zip(*columns, strict=True)])
    return out.getvalue()


def as_latex(table: Table, label: str) -> str:
    """A ``table`` environment in the style of the package booktabs."""
    def row(cells):
        return " & ".join(cells) + r" \\"

    def set_as(cell):
        text = cell.text.translate(LATEX)
        for style, command in (("bold", "textbf"), ("italic", "textit")):
            text = f"\\{command}{{{text}}}" if style in cell.style else text
        return text
    columns = "".join("r" if n else "l" for n in table.numeric())
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{table.caption.translate(LATEX)}}}", f"\\label{{{label}}}",
             f"\\begin{{tabular}}{{{columns}}}", r"\toprule", row(h.translate(LATEX) for h in table.headings()), r"\midrule",
             *(row(map(set_as, cells)) for cells in table.grid("body")), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def chart_files(spec: dict, png: str, vector: bool = True) -> dict[str, bytes]:
    """A chart as the contents of an SVG, a PNG (``png``, base64, as its run stored it) and a PDF; without ``vector`` as a PNG.

    One that is drawn on a canvas has too many marks for the other two, of up to 10 MB.
    """
    import vl_convert

    if not vector or spec.get("usermeta", {}).get("embedOptions", {}).get("renderer") == "canvas":
        return {"png": base64.b64decode(png)}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    return {"svg": svg.encode("utf8"), "png": base64.b64decode(png), "pdf": vl_convert.svg_to_pdf(svg)}


def files(data: dict, label: str, vector: bool = True) -> dict[str, bytes]:
    """What an output's MIME bundle ``data`` gives, by file ending; nothing if it is neither chart nor table."""
    if MIME in data:
        spec = data[MIME]
        return chart_files(json.loads(spec) if isinstance(spec, str) else spec, "".join(data["image/png"]), vector)
    table = read_table("".join(data.get("text/html", "")))
    return {"csv": as_csv(table).encode("utf8"), "tex": as_latex(table, label).encode("utf8")} if table else {}


def parameters(notebook: dict) -> dict:
    """The parameters of a notebook, those that were injected last."""
    cells = [c for c in notebook["cells"] if {"parameters", "injected-parameters"} & set(c["metadata"].get("tags", []))]
    lines = [n for c in cells for n in ast.parse("".join(c["source"])).body if isinstance(n, ast.Assign | ast.AnnAssign)]
    return {t.id: ast.literal_eval(n.value) for n in lines for t in (n.targets if isinstance(n, ast.Assign) else [n.target])}


def result_sets(parameters: dict) -> dict[str, Path]:
    """Result sets that a page shows, by name: the result of a run, else the summaries of campaigns, else the truth table.

    All are found by the page's parameters: its ``out``, the campaigns that it names, its ``dataset``.
    """
    own = where(parameters.get("out") or ".")
    if own.suffix == ".nc" and own.is_file():
        return {own.name: own}
    named = [v for v in parameters.values() if isinstance(v, str)]
    found = {f"{campaign}-{path.name}": path for campaign in named for path in kept(campaign, "summary-*.nc")}
    truth = where(f"nas_lib/embedded/{parameters.get('dataset')}.nc")
    return found or ({truth.name: truth} if truth.is_file() else {})


def runs(parameters: dict) -> list[tuple[str, Path]]:
    """Results that are no summary of the campaigns that a page names, each with its campaign; none for the page of a run."""
    named = [v for v in parameters.values() if isinstance(v, str) and v] if not parameters.get("out") else []
    return [(campaign, path) for campaign in dict.fromkeys(named) for path in kept(campaign, "*.nc")
            if not path.name.startswith("summary-")]
