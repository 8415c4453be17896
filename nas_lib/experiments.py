"""What the notebooks run: the library's parts joined into one run of Stage 1 or 2, or one shard of truth.

Everything that a run needs is checked before any training starts. State is kept in a cache folder named
by the configuration, so that a stopped run goes on, and Stage 2 finds the supernet that Stage 1 trained.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from nas_lib import benchmark, data, methods, results
from nas_lib.charts import default_mode
from nas_lib.parameters import ParameterError, Setup, check_parameters, short  # noqa: F401  notebooks check, too
from nas_lib.ranking import CALIBRATION, rank
from nas_lib.sampling import draw
from nas_lib.selection import NotApplicable
from nas_lib.spaces import NB201
from nas_lib.standalone import Recipe, train_shard
from nas_lib.sweep import published
from nas_lib.training import Budget, Stage1, Trained, configuration, run_folder, train


def stage1(setup: Setup, out, images: int = 200, views: int = 1) -> xr.Dataset:
    """Train a supernet and score all architectures: the Stage-1 result, to be written to ``out``.

    Scores are over the first ``images`` of ``views`` random views of the validation half, by the protocol's
    batch-norm rule; with 0 images there are none. Raises UnknownMethod, ParameterError, ResultError or
    BenchmarkError before any training.
    """
    started = time.time()
    job = _Job(setup, out)
    x, y = job.data.fixed("valid half", views, first=max(images, 0))
    if len(y) != images:
        there = len(job.data.fixed("valid half", views)[1])
        raise ParameterError(f"images = {images}: {views} views have {there} images")
    trained = job.train()
    run = _law(trained)
    attrs = {}
    if images:
        begun = time.perf_counter()
        scores = job.rank(trained, x, y, views)
        run, attrs = run.merge(scores), scores.attrs
        run["rank_seconds"] = time.perf_counter() - begun
    return job.signed(run, started, **attrs)


def stage2(setup: Setup, out, select=("prune", "valid", "synflow", "jacob_cov", "perturb"), candidates: int = 100,
           settings: dict | None = None) -> xr.Dataset:
    """Every selection method on one supernet: the Stage-2 result, to be written to ``out``.

    ``settings`` holds options of single methods, e.g. ``{"perturb": {"freeze_alpha": True}}``.

    The supernet comes from the cache, or is trained first. All methods choose among the same
    ``candidates`` draws from its law. A method that does not apply is missing in the result (NaN), its
    reason stands in the attribute ``not_applicable``. Raises as ``stage1``.
    """
    started = time.time()
    if not select or candidates < 1:
        raise ParameterError("select and candidates: name at least one method and one candidate")
    settings, chosen = settings or {}, [short(s) for s in select]
    if not set(settings) <= set(chosen):
        raise ParameterError(f"settings of {', '.join(set(settings) - set(chosen))}: selected are {', '.join(chosen)}")
    selectors = {short(s): methods.stage2(_file(s), **settings.get(short(s), {})) for s in select}
    job = _Job(setup, out)
    truth = benchmark.truth(setup.data).values.astype(float)
    trained = job.train()
    # A draw of the run's own: with one seed for all, methods with like laws would share candidates (D16).
    number = setup.seed if setup.rules.shared_draw else int(results.config_hash(job.config), 16)
    drawn = draw(trained.log_prob, candidates, number)
    choices, reasons = {}, {}
    for name, selector in selectors.items():
        try:
            own = {"truth": truth} if selector.informed else {}
            if selector.resumes:
                own["folder"] = job.folder / f"{name}-{results.config_hash(settings.get(name, {}))}"
            choices[name] = selector(trained, job.data, drawn, setup.seed, **own)
        except NotApplicable as reason:
            print(f"{name} does not apply: {reason}")
            choices[name], reasons[name] = None, str(reason)
    return job.signed(_chosen(choices, drawn, truth), started, not_applicable=reasons)


def shard(number: int, of: int, seeds, out, setup: Setup, recipe: dict) -> xr.Dataset:
    """Shard ``number`` of ``of``: distinct networks trained from scratch, once per seed.

    Of ``setup`` only data, device, threads and cache count. ``recipe`` changes single values of ``Recipe``.
    Returns ``test``, ``valid``, ``seconds``, ``params``, ``flops`` over (network, train_seed).
    """
    started = time.time()
    if not 0 <= number < of:
        raise ParameterError(f"shard = {number}: with {of} shards it runs from 0 to {of - 1}")
    try:
        recipe = Recipe(**recipe)
    except TypeError as error:
        known = ", ".join(f.name for f in fields(Recipe))
        raise ParameterError(f"recipe: {error}; it has {known}") from None
    images = _prepare(setup, out)
    networks = np.unique(NB201.classes("function"))[number::of]
    config = {"recipe": asdict(recipe), "data": images.config, "seeds": list(seeds),
              "networks": networks.tolist()}
    file = results.where(setup.cache) / f"truth-{number}of{of}-{results.config_hash(config)}.pt"
    table = train_shard(NB201, networks, images, recipe, list(seeds), file, default_mode() == "live")
    params, flops = benchmark.counts(NB201, NB201.archs[networks], recipe.channels, recipe.cells,
                                     images.classes, images.shape)
    return table.assign(params=("network", params), flops=("network", flops)).assign_attrs(
        provenance=results.provenance(started, setup.device))


class _Job:
    """A supernet's method, data, configuration and folder, all checked."""

    def __init__(self, setup: Setup, out):
        self.setup = setup
        method = methods.stage1(_file(setup.method), **setup.hyper)
        published = method.paper if setup.protocol == "paper" else {}
        self.method: Stage1 = replace(method, **published | setup.hyper)
        self.budget = Budget(channels=setup.channels, cells=setup.cells, epochs=setup.epochs,
                             batch=setup.batch, lr=setup.lr, alpha_lr=setup.alpha_lr)
        self.data = _prepare(setup, out)
        self.truth = benchmark.truth(setup.data).values if self.method.informed else None
        self.config = configuration(setup.name, self.method, NB201, self.data, self.budget, setup.seed, setup.rules)
        # What else decides the weights, so that a changed file or table never meets an old supernet.
        self.config["threads"] = setup.threads
        if self.truth is not None:
            self.config["truth"] = _digest(self.truth.tobytes())
        if setup.method.endswith(".py"):
            self.config["file"] = _digest(Path(_file(setup.method)).read_bytes())
        self.folder = run_folder(results.where(setup.cache), self.config)
        self.progress = default_mode() == "live"        # bars are for people, not for executed notebooks

    def train(self) -> Trained:
        return train(self.setup.name, self.method, NB201, self.data, self.budget, self.setup.seed,
                     self.truth, self.folder, self.progress, self.setup.rules)

    def rank(self, trained: Trained, x, y, views: int) -> xr.Dataset:
        """Scores of the whole space, on ``x``, ``y`` or as the flags of the protocol have it."""
        rules, images = self.setup.rules, len(y)
        law = trained.log_prob if rules.random_gdas and self.setup.name == "gdas" else None
        folder = self.folder / f"rank-{rules.rank_bn}-{images}of{views}"
        if rules.fresh_images or law is not None:
            folder = folder.with_name(f"{folder.name}-{rules.fresh_images}-{law is not None}")
            return published(trained.supernet, self.data, images, rules.fresh_images, law, rules.rank_bn, trained.seed,
                             folder=folder, progress=self.progress)
        calibration = self.data.fixed("train half", first=CALIBRATION)[0] if rules.rank_bn == "recalibrate" else None
        return rank(trained.supernet, x, y, rules.rank_bn, calibration=calibration, folder=folder,
                    progress=self.progress)

    def signed(self, run: xr.Dataset, started: float, **attrs) -> xr.Dataset:
        """The result with the names and the origin that every run carries."""
        s, paper = self.setup, Budget()
        scale = (f"Supernets of {_many(s.channels, 'channel')} and {_many(s.cells, 'cell')} per stage (published runs: "
                 f"{paper.channels} and {paper.cells}).")
        training = (f"Trained for {_many(s.epochs, 'epoch')} (published runs: {paper.epochs}, single-path baselines 250)."
                    if self.method.trains else "Not trained.")
        run = run.assign_coords(dataset=s.data, stage1=s.name, seed=s.seed)
        flags = f" with {', '.join(f'{k}={v}' for k, v in s.flags.items())}" if s.flags else ""
        return run.assign_attrs(scale=scale, training=training, protocol=s.protocol + flags, config=self.config, **attrs,
                                provenance=results.provenance(started, s.device))


def _prepare(setup: Setup, out) -> data.Data:
    """The data on their device, once it is sure that the folders to be used can be written."""
    torch.set_num_threads(setup.threads)
    for folder in (results.where(out).parent, results.where(setup.cache)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise results.ResultError(f"cannot write in {folder} ({error.strerror}): make it writable, or "
                                      "choose another with the parameters out and cache") from None
    try:
        return data.load(setup.data, setup.device, **setup.options)
    except TypeError as error:
        raise ParameterError(f"options of {setup.data}: {error}") from None
    except RuntimeError as error:
        raise ParameterError(f"device {setup.device!r}: {str(error).splitlines()[0]}; "
                             "'cpu' always works") from None


def _law(trained: Trained) -> xr.Dataset:
    """What Stage 1 hands over, with its history."""
    history = {k: np.asarray(v) for k, v in trained.history.items()}
    dims = {1: ("epoch",), 3: ("epoch", "edge", "op")}
    law = {k: (dims[v.ndim], v) for k, v in history.items()}
    if trained.probs is not None:
        law["probs"] = ("edge", "op"), trained.probs.numpy()
    return xr.Dataset(
        {"log_prob": ("arch", trained.log_prob), **law, "train_seconds": trained.seconds},
        coords={"arch": NB201.strings, "edge": [f"{t}<-{s}" for t, s in NB201.edges],
                "op": list(NB201.ops), "epoch": np.arange(len(history.get("train_loss", ())))})


def _chosen(choices: dict, drawn: np.ndarray, truth: np.ndarray) -> xr.Dataset:
    """Choices and scores of all methods, joined with the true accuracies; None is NaN throughout."""
    def each(value):
        return "stage2", [np.nan if c is None else value(c) for c in choices.values()]

    blank = np.full(len(drawn), np.nan)
    scores = [blank if c is None or c.scores is None else c.scores for c in choices.values()]
    return xr.Dataset(
        {"choice": each(lambda c: c.arch), "ties": each(lambda c: c.ties),
         "seconds": each(lambda c: c.seconds), "accuracy": each(lambda c: truth[c.arch]),
         "candidate_score": (("stage2", "candidate"), np.stack(scores)),
         "candidates": ("candidate", drawn), "candidate_accuracy": ("candidate", truth[drawn])},
        coords={"stage2": list(choices)})


def _many(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def _file(method: str) -> str:
    """A method's file as seen from the current folder or, if it is not there, from the repository root."""
    elsewhere = method.endswith(".py") and not Path(method).is_file()
    return str(results.where(method)) if elsewhere else method


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
