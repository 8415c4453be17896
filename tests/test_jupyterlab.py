"""The explorer in a real JupyterLab page: live charts, and a kernel that answers the mouse. No host but this one is reached."""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from browser import Browser, needs_browser
from nas_lib import benchmark, results
from nas_lib.spaces import NB201

LINKED = "[...document.querySelectorAll('.jp-OutputArea-output')].filter((o) => o.querySelector('table') && o.querySelector('canvas'))"
TABLE = f"{LINKED}.at(-1)?.querySelector('table').innerText"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with made results of two supernets and a few epochs."""
    top = tmp_path_factory.mktemp("clone")
    for name in ("nas_lib", "book/reference"):
        shutil.copytree(results.root() / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
    (top / "notebooks").mkdir()
    shutil.copy(results.root() / "notebooks/explore.ipynb", top / "notebooks")
    folder, rng, truth = top / "results/quick", np.random.default_rng(0), benchmark.truth("digits")
    folder.mkdir(parents=True)
    kept = results.read(results.root() / "book/reference/quick-paper/summary-digits.nc")
    best = kept.spearman.mean("seed").idxmax().item()
    results.write(kept, folder / "summary-digits.nc")
    for name in (best, "darts"):
        law = 0.2 + np.linspace(0, 1, 4)[:, None, None] * (rng.dirichlet(np.ones(5), 6) - 0.2)
        run = xr.Dataset({"score": ("arch", np.round(truth.values / 2 + rng.normal(0, 3, len(NB201)), 1).clip(0, 100)),
                          "log_prob": ("arch", NB201.log_prob(law[-1])), "probs": (("edge", "op"), law[-1]),
                          "probs_history": (("epoch", "edge", "op"), law), "train_loss": ("epoch", np.ones(4))},
                         {"arch": NB201.strings, "edge": kept.edge.values, "op": list(NB201.ops), "epoch": range(4)},
                         {"scale": "A made-up run.", "training": "Not trained.", "protocol": "corrected"})
        results.write(run.assign_coords(dataset="digits", stage1=name, seed=0), folder / f"stage1-digits-{name}-s0.nc")
    return top


@pytest.fixture(scope="module")
def lab(clone, tmp_path_factory):
    """The explorer's notebook, run in JupyterLab."""
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {k: str(home) for k in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
         "--ServerApp.port_retries=0", f"--ServerApp.root_dir={clone}", "--IdentityProvider.token=", "--ServerApp.password=",
         "--LabApp.expose_app_in_browser=True", "--LabApp.news_url="],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k != "NAS_CHARTS"} | own | {"PYTHONPATH": str(clone)})
    try:
        with Browser(home, hosts="127.0.0.1") as browser:
            page = browser.open("about:blank", 1400, 1000)
            for _ in range(200):
                if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
                    break
                page.run("new Promise((resolve) => setTimeout(resolve, 100))")
            page.go(f"http://127.0.0.1:{port}/lab/tree/notebooks/explore.ipynb?reset")
            page.wait("window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'", 90)
            page.run("void jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true; })")
            page.wait("window.ran", 120)
            yield page
    finally:
        server.terminate()
        server.wait(20)


@needs_browser
def test_live_charts(lab):
    lab.run("document.querySelector('.jp-Notebook').parentElement.scrollTo(0, 0)")
    lab.wait("document.querySelectorAll('.jp-OutputArea-output .vega-embed canvas').length >= 1", 60)
    lab.wait("document.querySelector('.vega-embed canvas').getContext('2d').getImageData(0, 0, 300, 300).data.some((v) => v)")
    assert lab.run("document.querySelectorAll('.vega-bindings select').length") >= 2
    assert not lab.run("[...document.querySelectorAll('.jp-OutputArea-output')].filter((o) => /Error/.test(o.innerText)).length")
    assert not [line for line in lab.complaints if "ERR_NAME" in line or "Error loading" in line]


@needs_browser
def test_the_kernel_answers_a_region(lab):
    lab.run("jupyterapp.shell.currentWidget.content.scrollToItem(jupyterapp.shell.currentWidget.content.widgets.length - 2, 'start').catch(() => 0)")
    lab.wait(f"{LINKED}.length >= 1", 60)
    before = lab.run(TABLE)
    assert len(before.splitlines()) == 9, "the eight best of all"
    lab.run(f"{LINKED}.at(-1).querySelector('canvas').scrollIntoView({{block: 'center'}})")
    x, y = lab.run(f"(() => {{ const r = {LINKED}.at(-1).querySelector('canvas').getBoundingClientRect(); return [r.x, r.y]; }})()")
    lab.drag((x + 120, y + 150), (x + 250, y + 300))
    lab.wait(f"{TABLE} !== {before!r}", 30)
    best = max(benchmark.truth("digits").values)
    assert all(float(line.split("\t")[1]) < best - 1 for line in lab.run(TABLE).splitlines()[1:])
