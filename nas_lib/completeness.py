"""Whether everything that the paper shows or claims has a place in the book: one row per table, figure, statistic and claim.

A cell of a page says what it shows in its metadata, ``{"shows": ["T2"]}`` from runs, ``{"prints": ["T2"]}`` from the paper
itself. It is believed only if the executed page has a chart or a table there, and no row in it that says "not computable".
A campaign says what it makes at the paper's size under ``makes``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from pandas.io.formats.style import Styler

from nas_lib import tables, takeaway
from nas_lib.charts import MIME
from nas_lib.claims import CLAIMS
from nas_lib.results import kept, read, where

OUTPUTS = {
    "T1": "Table 1: case study, errors with alpha trained or fixed",
    "T2": "Table 2: errors of all pairs, CIFAR-10",
    "T3": "Table 3: errors of all pairs, space S0",
    "T4": "Table 4: review of published methods",
    "T5": "Table 5: errors of all pairs, CIFAR-100",
    "T6": "Table 6: errors of all pairs, ImageNet16-120",
    "F1": "Figure 1: identification rate and sampling mass, CIFAR-10 and ImageNet16-120",
    "F2": "Figure 2: gains of Stage 2, CIFAR-10",
    "F3": "Figure 3: reviewed methods by their Stage 2",
    "F4": "Figure 4: identification rate and sampling mass, CIFAR-100",
    "F5": "Figure 5: gains of Stage 2, CIFAR-100",
    "F6": "Figure 6: pairs by their score, CIFAR-100",
    "F7": "Figure 7: identification rate and sampling mass, data set not named",
    "F8": "Figure 8: pairs by their score, data set not named",
    "S1": "top-architecture-identification rate",
    "S2": "sampling-probability mass",
    "S3": "score of a pair",
    "S4": "reliance on the law",
    "S5": "reliance on shared weights",
    "S6": "correlation of shared-weight with true accuracy",
    "S7": "agreement of the score with the observed error",
} | CLAIMS
DATA = {"T5": "cifar100", "F4": "cifar100", "F5": "cifar100", "F6": "cifar100", "T6": "ImageNet16-120", "F7": "ImageNet16-120"}
TEXT = ("T4", "F3", "C9")       # taken from the paper's text: there is nothing to run
KINDS = ("shows", "prints")


@dataclass(frozen=True)
class Place:
    """Where an output is: the label of a cell's figure or table on a page, shown from runs or printed from the paper."""

    output: str
    page: str
    label: str
    kind: str
    made: bool = False          # whether the executed page has it

    @property
    def link(self) -> str:
        return f'<a href="{self.page}.ipynb#{self.label}">{self.label}</a>'


def places(page: str, notebook: dict) -> list[Place]:
    """What the cells of a page say that they show. Raises ValueError for an output that the paper does not have."""
    found = []
    for cell in notebook["cells"]:
        named = [(kind, output) for kind in KINDS for output in cell["metadata"].get(kind, [])]
        if unknown := [output for _, output in named if output not in OUTPUTS]:
            raise ValueError(f"{page}, cell {cell.get('id')}: the paper has no {unknown[0]!r}; it has {', '.join(OUTPUTS)}")
        label = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") or cell.get("id")
        made = _made(cell) if named else {}
        found += [Place(output, page, label, kind, made.get(output, made.get("", False))) for kind, output in named]
    return found


def _made(cell: dict) -> dict[str, bool]:
    """Whether an executed cell holds a chart or a table (``""``), and whether a table's row of some name holds numbers."""
    outputs = cell.get("outputs", [])
    data = [o["data"] for o in outputs if "data" in o]
    if any(o["output_type"] == "error" for o in outputs):
        return {}
    found = [t for d in data if (t := takeaway.read_table("".join(d.get("text/html", ""))))]
    rows = [[c.text for c in row] for t in found for row in t.grid("body")]
    return {row[0]: "not computable" not in row for row in rows} | {"": bool(found) or any(MIME in d for d in data)}


def pages(campaign: str) -> dict[str, dict]:
    """The executed pages of a campaign, by name. Raises FileNotFoundError for one that was not executed."""
    chosen = yaml.safe_load(where(f"notebooks/campaigns/{campaign}.yaml").read_text("utf8"))
    ready = [p for p, own in (chosen["pages"] or {}).items() if not (own or {}).get("last")]
    return {page: json.loads(where(f"results/{campaign}/{page}.ipynb").read_text("utf8")) for page in ready}


def makers() -> dict[str, list[str]]:
    """The campaigns that make each output at the paper's size. Raises ValueError for an unknown output."""
    found: dict[str, list[str]] = {output: [] for output in OUTPUTS}
    for path in sorted(where("notebooks/campaigns").glob("*.yaml")):
        for output in yaml.safe_load(path.read_text("utf8")).get("makes", []):
            if output not in OUTPUTS:
                raise ValueError(f"{path.name}: the paper has no {output!r}; it has {', '.join(OUTPUTS)}")
            found[output].append(path.stem)
    return found


def table(executed: dict[str, dict]) -> Styler:
    """One row per output: where it is, made at which scale, and by which command at the paper's size."""
    known = [p for name, notebook in executed.items() for p in places(name, notebook)]
    scale = {name: _scale(notebook) for name, notebook in executed.items()}
    by, rows = makers(), {}
    for output, said in OUTPUTS.items():
        own, printed = ([p for p in known if p.output == output and p.kind == kind and p.made] for kind in KINDS)
        rows[output] = {
            "what": said,
            "from runs": ", ".join(p.link for p in own) or ("–" if output in TEXT else "not run"),
            "at scale": "the paper's text" if output in TEXT else "; ".join(dict.fromkeys(scale[p.page] for p in own)) or "–",
            "as printed": ", ".join(p.link for p in printed) or "–",
            "at the paper's size": "nothing to run" if output in TEXT else "; ".join(
                _command(c, output, own) for c in by[output]) or "–"}
    missing = [o for o, row in rows.items() if row["from runs"] == "not run"]
    return tables.words(pd.DataFrame.from_dict(rows, orient="index"), f"{len(rows)} outputs of the paper; not run: "
                        + (", ".join(missing) or "none"))


def _command(campaign: str, output: str, own: list[Place]) -> str:
    """How a campaign is run and, if it has the output's data set, how the page is made from it."""
    run = f"<code>snakemake --profile notebooks/profiles/local --configfile notebooks/campaigns/{campaign}.yaml</code>"
    dataset = DATA.get(output, "cifar10")
    data = yaml.safe_load(where(f"notebooks/campaigns/{campaign}.yaml").read_text("utf8"))["data"]
    if not own or dataset not in (data if isinstance(data, list) else [data]):
        return run
    return (f"{run}, then <code>papermill notebooks/{own[0].page}.ipynb {output}.ipynb -p campaign {campaign} "
            f"-p dataset {dataset}</code>")


def _scale(notebook: dict) -> str:
    """The campaign and the data set of a page, with the number of seeds that its summary holds."""
    given = takeaway.parameters(notebook)
    campaign, dataset = given.get("campaign", ""), given.get("dataset", "")
    found = next(iter(kept(campaign, f"summary-{dataset}.nc")), None) if campaign and dataset else None
    count = read(found).sizes["seed"] if isinstance(found, Path) else 0
    seeds = f", {count} seed{'s' * (count != 1)}" if count else ""
    return f"{campaign}: {dataset}{seeds}" if campaign else dataset
