"""Sentences of a page whose numbers are computed: the scale of its runs, what was not run, the text of a file."""

from __future__ import annotations

import numpy as np
import xarray as xr

from nas_lib.claims import SPACES, space_of
from nas_lib.marks import tidy
from nas_lib.results import said, where


class Note:
    """A sentence that a notebook shows as prose, so that the numbers in it can be computed."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


def source(path) -> Note:
    """The text of a method's file."""
    return Note(f"```python\n{where(path).read_text('utf8').strip()}\n```")


def scale(runs: xr.Dataset) -> Note:
    """At which scale the numbers of a page were made, from the joined runs and their attributes."""
    names = ", ".join(f"`{n}`" for n in np.atleast_1d(tidy(runs.stage1).values))
    seeds = np.atleast_1d(runs.seed.values)
    data = ", ".join(f"`{d}`" for d in np.atleast_1d(runs.dataset.values))
    images, bn, size, training, protocol = (said(runs, name) for name in
                                            ("images", "bn", "scale", "training", "protocol"))
    text = f"{names} on {data}, {len(seeds)} seed{'s' * (len(seeds) != 1)} each ({', '.join(map(str, seeds))}). {size} {training}"
    if images:
        text += f" Shared-weight accuracies are over {images} images" + (f", batch-norm rule `{bn}`." if bn else ".")
    text += f" Protocol: {protocol}." * bool(protocol)
    return Note(f"> **Scale of these numbers.** {text}")


def scales(summaries: list[xr.Dataset]) -> Note:
    """At which scale each row of a table over spaces was made; rows made alike share a line."""
    said = {}
    for one in summaries:
        seeds = ", ".join(map(str, one.seed.values))
        text = f"seed{'s' * (one.sizes['seed'] > 1)} {seeds}. {one.scale} {one.training} {one.attrs.get('final', '')}".strip()
        said.setdefault(f"{text} Protocol: {one.protocol}.", []).append(SPACES[space_of(one.dataset.item())])
    lines = [f"> - {', '.join(names)}: {text}" for text, names in said.items()]
    return Note("> **Scale of these numbers.**\n>\n" + "\n".join(lines))


def not_run(campaign: str, what: str = "") -> Note:
    """That nothing has been run, and how it would be."""
    return Note(f"**Not run{': ' * bool(what)}{what}.** `snakemake --profile notebooks/profiles/local --configfile "
                f"notebooks/campaigns/{campaign}.yaml` makes it.")
