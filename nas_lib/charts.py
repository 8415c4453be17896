"""How an Altair chart becomes the output of a notebook cell.

Two modes. ``"book"`` stores the Vega-Lite specification and a PNG of it: a batch run needs no browser,
the built book draws the specification (see ``bookext.py``), JupyterLab shows the PNG. ``"live"`` shows
an interactive chart in JupyterLab. Neither asks a network for anything: the Vega bundle comes out of
the installed ``vl-convert-python``.
"""

from __future__ import annotations

import base64
import os

import altair as alt

# nbformat accepts a JSON output only under a type ending in "+json"; Altair's own type lacks it and
# stops a papermill run.
MIME = "application/vnd.vegalite.v6+json"
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
MODES = ("book", "live")

# No colours here: text, axes and grids take those of the page's light or dark theme.
CONFIG = {
    "view": {"stroke": None},
    "axis": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8,
             "domain": False, "tickSize": 4},
    "legend": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal",
               "symbolStrokeWidth": 2.5},
    "header": {"labelFontSize": 12, "labelFontWeight": "bold", "titleFontSize": 12},
    "title": {"anchor": "start", "fontSize": 13, "subtitleFontSize": 11.5, "subtitlePadding": 5,
              "offset": 12},
}


@alt.theme.register("nas", enable=False)
def theme() -> alt.theme.ThemeConfig:
    """The sizes and weights shared by all charts."""
    return {"config": CONFIG}


def render(spec: dict, **_) -> dict:
    """MIME bundle of one chart: specification, PNG, and its description as the text alternative."""
    import vl_convert

    png = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2)
    return {MIME: spec, "image/png": base64.b64encode(png).decode(),
            "text/plain": f"<chart: {spec.get('description', 'no description')}>"}


def default_mode() -> str:
    """``$NAS_CHARTS`` if set; else "live" in a kernel that a Jupyter server started for a person, and
    "book" in a batch run (the server names the session in the kernel's environment, papermill does not)."""
    return os.environ.get("NAS_CHARTS") or ("live" if "JPY_SESSION_NAME" in os.environ else "book")


def live() -> bool:
    """Whether charts are live widgets now."""
    return alt.renderers.active == "jupyter"


def enable(mode: str | None = None) -> None:
    """Show charts in ``mode`` ("book" or "live"; ``default_mode()`` if None) from now on."""
    mode = mode or default_mode()
    if mode not in MODES:
        raise ValueError(f"unknown chart mode {mode!r}: use one of {', '.join(MODES)} (or unset NAS_CHARTS)")
    alt.data_transformers.disable_max_rows()
    alt.theme.enable("nas")
    if mode == "live":
        alt.renderers.enable("jupyter", offline=True)
    else:
        alt.renderers.register("nas_book", render)
        alt.renderers.enable("nas_book")
