"""What single defects of the published code change, on small supernets of our own: one flag at a time, the same weights.

Each measure has two dimensions: the case, and how it was computed, the corrected way first. D1 to D27 and N3, N5 are the
numbers of the page on protocols. Accuracies in percent.
"""

from __future__ import annotations

import copy
import time
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pandas as pd
import torch
import xarray as xr

from nas_lib import benchmark, data, methods, metrics, results
from nas_lib.data import Data
from nas_lib.parameters import Setup
from nas_lib.proxies import scores
from nas_lib.ranking import accuracy
from nas_lib.sampling import IDEAL, draw
from nas_lib.selection import measure
from nas_lib.sweep import published
from nas_lib.training import Budget, Trained, configuration, run_folder, train

CELLS, CANDIDATES, IMAGES = 300, 100, 192      # a sample of the space, a draw, three batches of 64
SUPERNETS = ("rsps", "darts", "darts-", "gdas", "snas", "dirichlet")
PROXIES = ("jacob_cov", "synflow", "synflow_bn", "grad_norm", "snip", "plain", "grasp")
EVALUATED = {"random_gdas": "gdas", "fresh_images": "rsps"}     # flags of the evaluation, and where they are shown
TRAINED = {"clip_alpha": "darts", "drop_gradients": "rsps", "untrained_cells": "darts-"}


def supernet(setup: Setup, images: Data) -> Trained:
    """The supernet of ``setup``, trained, or loaded from its cache."""
    method = methods.stage1(setup.method, **setup.hyper)
    budget = Budget(**{f.name: getattr(setup, f.name) for f in fields(Budget) if f.name in vars(setup)})
    what = method, setup.searched, images, budget, setup.seed
    config = configuration(setup.name, *what, setup.rules) | {"threads": setup.threads}
    folder = run_folder(results.where(setup.cache), config)
    return train(setup.name, *what, folder=folder, progress=False, protocol=setup.rules)


def evidence(setup: Setup) -> xr.Dataset:
    """All measures of this module for the seed of ``setup``, whose method is left out of account."""
    started = time.time()
    torch.set_num_threads(setup.threads)
    images, truth = data.load(setup.data, setup.device, **setup.options), benchmark.truth(setup.data)
    nets = {name: supernet(replace(setup, method=name), images) for name in SUPERNETS}
    sample = np.random.default_rng(setup.seed).choice(np.unique(setup.searched.classes("function")), CELLS, replace=False)
    variants = {flag: supernet(replace(setup, method=name, flags={flag: True}), images) for flag, name in TRAINED.items()}
    betas = {"linear": nets["darts-"],
             "constant": supernet(replace(setup, method="darts-", hyper={"beta": "constant"}), images)}
    scored = statistics(nets, images, sample)
    found = xr.Dataset({
        "bn_spearman": metrics.spearman(scored, truth[sample]),
        "bn_chance": metrics.chance_share(scored, 100 / images.classes),
        "flag_spearman": flags(nets, variants, images, sample, truth[sample]),
        "first": first(nets["rsps"], images), "repeated": repeated(nets["rsps"], images),
        "auxiliary": auxiliary(betas, images), "common": common(nets), "tuned": tuned(nets, images, truth)})
    size = f"Supernets with channels = {setup.channels} and cells = {setup.cells} per stage, {setup.epochs} epochs of training"
    return found.merge(laws(nets["dirichlet"], truth)).assign_coords(dataset=setup.dataset, seed=setup.seed).assign_attrs(
        scale=f"{size}; {CELLS} cells, {IMAGES} images, {CANDIDATES} candidates.",
        provenance=results.provenance(started, setup.device))


def load(campaign: str, dataset: str) -> xr.Dataset:
    """The evidence of all seeds, joined along ``seed``. Raises ResultError if there is none."""
    paths = results.kept(campaign, f"audit-{dataset}-s*.nc")
    if not paths:
        raise results.ResultError(f"no evidence of {campaign} on {dataset}: run notebooks/campaigns/audit.yaml")
    return xr.concat([results.read(p) for p in paths], "seed", combine_attrs="drop_conflicts")


def statistics(nets: dict[str, Trained], images: Data, sample: np.ndarray) -> xr.DataArray:
    """Accuracy (stage1, bn, arch) of ``sample`` on the same images, by both batch-norm rules (D1)."""
    rules = ("batch", "running")
    return xr.concat([xr.concat([_scores(trained, images, sample, rule) for rule in rules], xr.Variable("bn", list(rules)))
                      for trained in nets.values()], xr.Variable("stage1", list(nets)))


def flags(nets: dict[str, Trained], variants: dict[str, Trained], images: Data, sample: np.ndarray,
          truth: xr.DataArray) -> xr.DataArray:
    """Spearman of shared-weight and true accuracy (flag, flagged): D4, D5 in the evaluation, N5, N3, D27 in the training."""
    pairs = {}
    for flag, name in EVALUATED.items():
        trained = nets[name]
        law = trained.log_prob if flag == "random_gdas" else None
        asked = ((False, None), (flag == "fresh_images", law))
        pairs[flag] = [published(trained.supernet, images, IMAGES, fresh, own, "batch", trained.seed, progress=False,
                                 sample=sample).score for fresh, own in asked]
    for flag, trained in variants.items():
        pairs[flag] = [_scores(net, images, sample, "batch") for net in (nets[TRAINED[flag]], trained)]
    return _table({flag: [metrics.spearman(s, truth).item() for s in pair] for flag, pair in pairs.items()},
                  flag=pairs, flagged=("off", "on"))


def first(trained: Trained, images: Data) -> xr.DataArray:
    """Share of the other candidates that the first one beats (proxy, mode), mean over who comes first (D2).

    One half where all are scored in train mode; as published the first is, and the others are in eval mode.
    """
    x, y = (part[:64] for part in images.fixed("train half"))
    drawn = trained.space.archs[_candidates(trained)]
    train_mode, eval_mode = (scores(trained.supernet, drawn, x, y, PROXIES, training=mode) for mode in (True, False))
    rows = {name: [_beaten(train_mode[name], others[name]) for others in (train_mode, eval_mode)] for name in PROXIES}
    return _table(rows, proxy=PROXIES, mode=("train mode", "first alone"))


def _beaten(one: np.ndarray, others: np.ndarray) -> float:
    """Mean over i of the share of j != i with ``one[i] > others[j]``, equal ones and what has no score counting half."""
    wins = 0.5 + 0.5 * np.nan_to_num(np.sign(one[:, None] - others[None]))
    return wins[~np.eye(len(one), dtype=bool)].mean()


def repeated(trained: Trained, images: Data) -> xr.DataArray:
    """Spearman of two scorings of the same candidates (proxy, batch): on one batch, or each on another (D3)."""
    drawn, rows = trained.space.archs[_candidates(trained)], {}
    for fresh in (False, True):
        asked = replace(trained, protocol=replace(trained.protocol, fresh_batch=fresh))
        rows[fresh] = [measure(asked, drawn, images, trained.seed + 1000 * k, PROXIES) for k in (0, 1)]
    return _table({name: [metrics.spearman(*(xr.DataArray(np.nan_to_num(run[name]), dims="arch") for run in runs)).item()
                          for runs in rows.values()] for name in PROXIES}, proxy=PROXIES, batch=("fixed", "fresh"))


def auxiliary(betas: dict[str, Trained], images: Data) -> xr.DataArray:
    """Accuracy of the trained mixture (beta, branch), with the auxiliary skip of its last epoch and without it (D9)."""
    x, y = images.fixed("valid half", first=IMAGES)
    rows = {}
    for beta, trained in betas.items():
        net, last = copy.deepcopy(trained.supernet).train(), 1 - 1 / trained.config["budget"]["epochs"]
        mixtures = (methods.stage1("darts-", beta=beta).mix(trained.space, trained.alpha, last, None),
                    trained.alpha.softmax(-1))
        with torch.no_grad():
            rows[beta] = [100 * (net(x, m).argmax(1) == y).double().mean().item() for m in mixtures]
    return _table(rows, beta=betas, branch=("as trained", "without"))


def laws(trained: Trained, truth: xr.DataArray) -> xr.Dataset:
    """Expected accuracy and entropy in nats of the two laws (law) that one alpha of DrNAS may hand over (D10)."""
    log_prob = xr.concat([xr.DataArray(methods.stage1("dirichlet", law=law).log_prob(trained.space, trained.alpha),
                                       dims="arch", coords={"arch": truth.arch}) for law in ("mean", "softmax")],
                         xr.Variable("law", ["mean", "softmax"]))
    return xr.Dataset({"law_expected": metrics.expected_accuracy(log_prob, truth), "law_entropy": metrics.entropy(log_prob)})


def tuned(nets: dict[str, Trained], images: Data, truth: xr.DataArray) -> xr.DataArray:
    """True accuracy of what ``perturb`` selects (supernet, alpha): alpha tuned on, or at rest (D11)."""
    chosen = {name: [methods.stage2("perturb", freeze_alpha=rest)(nets[name], images, None, nets[name].seed).arch
                     for rest in (True, False)] for name in ("rsps", "darts")}
    rows = {name: truth.values[cells].tolist() for name, cells in chosen.items()}
    return _table(rows, supernet=rows, alpha=("at rest", "tuned"))


def common(nets: dict[str, Trained]) -> xr.DataArray:
    """Edges that the k-th candidates of two methods share, mean over k (pair, draw): own or shared random numbers (D16).

    Drawn edge by edge, as the published code of the DARTS spaces does.
    """
    drawn = {name: [_by_edge(net, shared) for shared in (False, True)] for name, net in nets.items()}
    rows = {f"{a}, {b}": [(one == other).sum(1).mean() for one, other in zip(drawn[a], drawn[b], strict=True)]
            for a, b in combinations([n for n in nets if n != "rsps"], 2)}
    return _table(rows, pair=rows, draw=("own", "shared"))


def _by_edge(trained: Trained, shared: bool) -> np.ndarray:
    """Candidates [n, edge] from the law by edges: the first operation whose cumulated probability exceeds the number."""
    numbers = np.random.default_rng(_number(trained, shared)).random((CANDIDATES, len(trained.space.edges), 1))
    return (numbers > trained.probs.cumsum(-1).numpy()[:, :-1]).sum(-1)


def ideal(truth: xr.DataArray) -> pd.DataFrame:
    """The informed law as described and as stored, beside the uniform one (D6): a row each, in percent."""
    uniform = np.full(len(truth), 1 / len(truth))
    rows = {"uniform": uniform} | {name: law(truth.values) for name, law in IDEAL.items()}
    near = (truth.max() - truth < 2).values
    return pd.DataFrame({name: {"expected accuracy (%)": float(p @ truth.values),
                                "share within 2 points of the best (%)": 100 * p[near].sum(),
                                "cells that can be drawn": (p > 0).sum()} for name, p in rows.items()}).T


def _scores(trained: Trained, images: Data, sample: np.ndarray, bn: str) -> xr.DataArray:
    x, y = images.fixed("valid half", first=IMAGES)
    space, matrices = trained.space, {}
    parts = [accuracy(trained.supernet, archs, x, y, bn, matrices=matrices)[0]
             for archs in np.array_split(space.archs[sample], max(1, len(sample) // 100))]
    return xr.DataArray(np.concatenate(parts), dims="arch", coords={"arch": space.strings[sample]})


def _candidates(trained: Trained) -> np.ndarray:
    return draw(trained.log_prob, CANDIDATES, _number(trained, shared=False))


def _number(trained: Trained, shared: bool) -> int:
    return trained.seed if shared else int(results.config_hash(trained.config), 16)


def _table(rows: dict[str, list[float]], **dims) -> xr.DataArray:
    """Rows of numbers as an array whose two dimensions and labels are ``dims``."""
    return xr.DataArray(list(rows.values()), {k: list(v) for k, v in dims.items()}, dims=list(dims))
