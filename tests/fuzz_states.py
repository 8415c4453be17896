"""Readers of states, of result sets and of notebooks' parameters, with something good for each, for ``fuzz``."""

from __future__ import annotations

import ast
import json
from functools import partial
from pathlib import Path
from unittest.mock import patch

import nbformat
import numpy as np
import torch
import xarray as xr
import yaml
from papermill.translators import PythonTranslator

import tiny
from fuzz_subjects import TRICKS, WRONG, Subject, altered, in_result, in_zip, saved
from nas_lib import checkpoint, experiments, final, methods, results, standalone
from nas_lib.networks import PairSupernet
from nas_lib.parameters import ParameterError
from nas_lib.ranking import rank
from nas_lib.spaces import NB201, SPACES
from nas_lib.spaces.published_cells import CELLS
from nas_lib.supernet import Supernet, load_published
from nas_lib.training import train


def states(home: Path) -> list[Subject]:
    """Checkpoints of every kind of work."""
    data, plain = tiny.data(), {"a": torch.arange(6.0).view(2, 3), "b": [1, "x", None]}
    whole = partial(train, "gdas", methods.stage1("gdas"), tiny.SPACE, data, tiny.BUDGET, 0, progress=False)
    with patch.object(checkpoint, "EVERY", 0.0):
        net = whole(folder=home / "train").supernet
    ranked = partial(rank, net, *data.fixed("valid half", first=8), block=9, progress=False)
    ranked(folder=home / "rank")
    shard = partial(standalone.train_shard, tiny.SPACE, [3, 5], data,
                    standalone.Recipe(channels=2, steps=2, batch=8, copies=1), [0, 1], progress=False)
    cells = SPACES["s1"].genotype(SPACES["s1"].parse(CELLS["s1"]["dartsm_pt"]))
    end = partial(final.train_final, cells, data, final.Recipe(
        channels=1, cells=3, epochs=1, batch=32, auxiliary=0, cutout=0), 0, progress=False)
    end(file=home / "final.pt")

    def sharded(file):
        with patch.object(standalone, "train_from_scratch", lambda *_: {
                "test": np.full(2, 50.0), "valid": np.full(2, 50.0), "seconds": 1.0}):
            return shard(file=file)

    def exact(folder):
        tiny.same(checkpoint.load(folder / "file", "a test"), plain)

    def trained(folder):
        run = whole(folder=folder)
        assert all(len(v) == 3 and np.isfinite(v).all() for v in run.history.values()), "another number of epochs"

    def scored(folder):
        assert ranked(folder=folder).score.clip(0, 100).notnull().all(), "a score that is none"

    def done(folder):
        table = sharded(folder / "file")
        assert ((table.test >= 0) & (table.test <= 100)).all(), "an accuracy that is none"

    def ended(folder):
        found = end(file=folder / "file")
        assert found.sizes["epoch"] == 1 and 0 <= found["last"] <= 100, "an error that is none"

    def of(path):
        good = torch.load(path, weights_only=True)
        return {"content": path.read_bytes(), "sealed": in_zip, "crafted": lambda rng: saved(altered(rng, good))}

    sharded(home / "shard.pt")
    return [Subject("checkpoint", saved(plain | {"purpose": "a test"}), exact),
            Subject("checkpoint of a training", read=trained, place="state.pt", **of(home / "train/state-before.pt")),
            Subject("checkpoint of a ranking", read=scored, place="ranking.pt", **of(home / "rank/ranking.pt")),
            Subject("checkpoint of a truth shard", read=done, **of(home / "shard.pt")),
            Subject("checkpoint, final training", read=ended, **of(home / "final.pt"))]


def published(home: Path) -> list[Subject]:
    """States under the names of the published code."""
    def of(space, net, **size):
        state = dict(net.state_dict())
        return Subject(
            f"published state, {space}", saved({"state_dict": state}), lambda folder: load_published(
                checkpoint.read(folder / "file")["state_dict"], space, classes=10, **size),
            sealed=in_zip, crafted=lambda rng: saved({"state_dict": altered(rng, state)}), share=0.7)

    return [of("nb201", Supernet(NB201, 2, 1, 10), channels=2, cells=1),
            of("s1", PairSupernet(SPACES["s1"], 2, 3, 10, 3), channels=2, cells=3)]


def runs(home: Path) -> list[Subject]:
    """Result sets, alone and joined."""
    def run(seed):
        return xr.Dataset(
            {"score": ("arch", np.arange(50, dtype="float32")), "choice": ("stage2", np.array(["a", "b"])), "seconds": 1.5},
            {"arch": [f"|none~{i}|" for i in range(50)], "stage2": ["prune", "valid"], "dataset": "digits", "stage1": "gdas",
             "seed": seed}, {"config": {"lr": 0.1}, "scale": "A made-up run."})

    whole = results.read(results.write(run(0), home / "run.nc"))
    content, other = (home / "run.nc").read_bytes(), results.write(run(1), home / "other.nc").read_bytes()

    def exact(folder):
        xr.testing.assert_identical(results.read(folder / "run.nc"), whole)

    def joined(folder):
        found = results.load([folder / "other.nc", folder / "run.nc"])
        assert set(results.KEYS) <= set(found.dims), "no joined runs"

    def crafted(rng):
        d, name = run(0), str(rng.choice(["score", "choice", "seconds", "arch", "stage1", "seed", "dataset"]))
        value = rng.choice(TRICKS) if rng.random() < 0.5 else np.array([[1e300, -1]] * 2)
        changed = [lambda: d.drop_vars(name), lambda: d.assign_attrs({str(rng.choice(TRICKS))[:99] or "x": str(value)}),
                   lambda: d.drop_vars(name).assign_coords({name: str(value)}), lambda: d.rename({name: f"{name}2"}),
                   lambda: d.expand_dims(extra=3), lambda: d.drop_vars(name).assign({name: (("p", "q"), np.ones((2, 2)))})]
        try:
            return results.write(changed[rng.integers(len(changed))](), home / "crafted.nc").read_bytes()
        except Exception:       # what cannot be written cannot be read either
            return b"unwritten"

    return [Subject("result set", content, exact, "run.nc"),
            Subject("result set, sealed again", content, lambda f: results.read(f / "run.nc"), "run.nc", crafted, in_result),
            Subject("result sets, joined", content, joined, "run.nc", crafted, in_result, also={"other.nc": other})]


class Accepted(Exception):
    """Everything was checked, and the computation would begin."""


def parameters(home: Path) -> list[Subject]:
    """What papermill gives to the notebooks, up to where a training would begin."""
    def of(name):
        cells = nbformat.read(results.root() / f"notebooks/{name}.ipynb", 4).cells
        cells = [c.source for c in cells if c.cell_type == "code"][:3]
        default = {n.target.id: ast.literal_eval(n.value) for n in ast.parse(cells[0]).body}

        def crafted(rng):
            key = str(rng.choice([k for k in default if k not in ("out", "cache")]))     # places are the user's choice
            pool = WRONG + TRICKS + [10**9, 10**6, 1 << 62, -7, 0.5, "gdas.py", "../own.py", "cuda:7", "s1", "paper"]
            value = default[key]
            if isinstance(value, dict | list) and rng.random() < 0.7:
                value = altered(rng, value or {"x": 1}, plant=False)
            else:
                value = pool[rng.integers(len(pool))]
            name = key if rng.random() < 0.95 else f"{key}2"
            return json.dumps({name: value}, default=str).encode()

        return Subject(f"parameters of {name}", json.dumps({"seed": 3} if "seed" in default else {"seeds": [3]}).encode(),
                       partial(asked, cells), "given.json", crafted)

    return [of(name) for name in ("stage1", "stage2", "final", "standalone")]


def asked(cells: list[str], folder: Path) -> None:
    """Run the first cells of a notebook with the parameters in a file, as papermill does."""
    begins = patch.multiple(experiments, train=_accept, train_shard=_accept, train_final=_accept)
    try:
        given = yaml.safe_load((folder / "given.json").read_text("utf8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ParameterError("papermill gives these back: they must be YAML") from None
    if not isinstance(given, dict) or not all(isinstance(k, str) and k.isidentifier() for k in given):
        raise ParameterError("papermill and the workflow give these back: there must be names and values")
    before, *rest = cells
    injected = PythonTranslator.codify(given)
    scope = {"In": ["", before, injected, rest[0]]}
    with begins, patch.object(results, "root", lambda: folder):
        for cell in (before, injected, *rest):
            try:
                exec(compile(cell, "cell", "exec"), scope)
            except Accepted:
                return
    raise AssertionError("nothing was to be computed")


def _accept(*_, **__):
    raise Accepted
