"""What the notebooks run: the library's parts joined into one run, one shard of truth, or one final training.

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

from nas_lib import benchmark, data, devices, methods, outcomes, results
from nas_lib.charts import default_mode
from nas_lib.final import Recipe as FinalRecipe
from nas_lib.final import cells_of, choice_of, recipe_of, train_final
from nas_lib.parameters import ParameterError, Setup, check_parameters, check_scoring, check_seeds, short  # noqa: F401
from nas_lib.proxies import network_size
from nas_lib.ranking import CALIBRATION, joined, rank
from nas_lib.selection import NotApplicable
from nas_lib.spaces import NB201
from nas_lib.standalone import Recipe, train_shard
from nas_lib.sweep import published
from nas_lib.training import Budget, Stage1, Trained, configuration, run_folder, train

S = Budget(channels=16, cells=8, epochs=50)     # of S1 to S4 (algorithms, 9)
PUBLISHED = {"nb201": Budget(), "s0": replace(S, channels=36, cells=20), "s1": S, "s2": S, "s3": S, "s4": S}
IMAGES = 200        # that score every architecture, if nothing is said


def stage1(setup: Setup, out, images: int | None = None, views: int = 1, part: int = -1, parts: int = 1,
           scoring: dict | None = None) -> xr.Dataset:
    """Train a supernet and score all architectures: the Stage-1 result, to be written to ``out``.

    Scores are over the first ``images`` (None: 200) of ``views`` random views of the validation half, by the protocol's
    batch-norm rule; with 0 images there are none. A space too large to list is not scored: None means 0 there, and what
    the law prefers is in the attribute ``genotype``. A ``part`` of ``parts`` is scored for a later call with all (-1).
    ``scoring`` may have ``precision``, ``top`` and ``correct`` as ``ranking.rank`` has.
    Raises UnknownMethod, ParameterError, ResultError or BenchmarkError before any training.
    """
    started = time.time()
    if not -1 <= part < parts or parts < 1:
        raise ParameterError(f"part = {part} of {parts}: parts, at least 1, are numbered from 0; give -1 for all")
    images = IMAGES * setup.searched.enumerable if images is None else images
    if images and not setup.searched.enumerable:
        raise ParameterError(f"images = {images}: {setup.space} has {setup.searched.size:.0e} architectures, too many to "
                             "score them all; set images to 0 and let Stage 2 choose")
    scoring, job = check_scoring(scoring or {}), _Job(setup, out)
    if (parts > 1 or scoring) and job.swept:
        raise ParameterError("parts and scoring: with fresh_images or random_gdas the space is scored in one piece, plainly")
    x, y = job.data.fixed("valid half", views, first=max(images, 0))
    if len(y) != images:
        raise ParameterError(f"images = {images}: {views} views have {len(job.data.fixed('valid half', views)[1])} images")
    trained = job.train()
    run, attrs = outcomes.law(trained), {}
    if images:
        begun = time.perf_counter()
        scores = job.rank(trained, x, y, views, part, parts, scoring)
        if part < 0:
            run, attrs = run.merge(scores), scores.attrs
        run["rank_seconds"] = time.perf_counter() - begun
    asked = {"images": images, "views": views, "scoring": scoring}
    return job.signed(run, started, trained, job.truth, 1, asked, **attrs)


def stage2(setup: Setup, out, select=("prune", "valid", "synflow", "jacob_cov", "perturb"), candidates: int = 100,
           settings: dict | None = None) -> xr.Dataset:
    """Every selection method on one supernet: the Stage-2 result, to be written to ``out``.

    ``settings`` holds options of single methods, e.g. ``{"perturb": {"freeze_alpha": True}}``.

    The supernet comes from the cache, or is trained first. All methods choose among the same
    ``candidates`` draws from its law. A method that does not apply is missing in the result (NaN, or an empty text), its
    reason stands in the attribute ``not_applicable``. Where there is no table of all architectures, what is chosen is a
    text, whose accuracy ``final`` finds out. Raises as ``stage1``.
    """
    started = time.time()
    if not select or not 1 <= candidates <= 10**6:
        raise ParameterError("select and candidates: name at least one method, and 1 to a million candidates")
    settings, chosen = settings or {}, [short(s) for s in select]
    if not set(settings) <= set(chosen):
        raise ParameterError(f"settings of {', '.join(set(settings) - set(chosen))}: selected are {', '.join(chosen)}")
    selectors = {short(s): methods.stage2(_file(s), **settings.get(short(s), {})) for s in select}
    job = _Job(setup, out)
    truth = benchmark.truth(setup.data).values.astype(float) if job.space.enumerable else None
    trained = job.train()
    # A draw of the run's own: with one seed for all, methods with like laws would share candidates (D16).
    number = setup.seed if setup.rules.shared_draw else int(results.config_hash(job.config), 16)
    drawn = job.space.draw(trained.log_prob, candidates, number)
    choices, reasons = {}, {}
    for name, selector in selectors.items():
        try:
            if selector.informed and truth is None:
                raise NotApplicable(f"{name} is shown the true accuracies; there is no table of {setup.space}")
            own = {"truth": truth} if selector.informed else {}
            if selector.resumes:
                own["folder"] = job.folder / f"{name}-{results.config_hash(settings.get(name, {}))}"
            choices[name] = selector(trained, job.data, drawn, setup.seed, **own)
        except NotApplicable as reason:
            print(f"{name} does not apply: {reason}")
            choices[name], reasons[name] = None, str(reason)
    asked = {"select": list(select), "candidates": candidates, "settings": settings}
    return job.signed(outcomes.chosen(choices, drawn, truth), started, trained, truth, 2, asked, not_applicable=reasons)


def shard(number: int, of: int, seeds, out, setup: Setup, recipe: dict) -> xr.Dataset:
    """Shard ``number`` of ``of``: distinct networks trained from scratch, once per seed.

    Of ``setup`` only data, device, threads and cache count. ``recipe`` changes single values of ``Recipe``.
    Returns ``test``, ``valid``, ``seconds``, ``params``, ``flops`` over (network, train_seed).
    """
    started = time.time()
    check_seeds(seeds)
    if not 0 <= number < of:
        raise ParameterError(f"shard = {number} of {of}: shards, at least 1, are numbered from 0")
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


def final(setup: Setup, out, cell: str, seeds=(0,), recipe: dict | None = None) -> xr.Dataset:
    """Train one architecture of a DARTS space from scratch, once per seed: the result, to be written to ``out``.

    ``cell`` is its text, in either notation, the name of a published one, as ``dartsm_pt`` of s1, or what a Stage-2
    result chose (``choice_of``), whose coordinates the result then has. Of ``setup`` only space, data, device, threads and cache count. ``recipe`` changes single values of the published recipe. A stopped
    training goes on where it was. Returns ``error`` and ``train_loss`` (train_seed, epoch), ``last`` and ``best``
    errors (train_seed) in percent, ``params`` and ``flops`` without the second classifier. Raises ParameterError or ResultError before any training.
    """
    started = time.time()
    if setup.searched.enumerable:
        raise ParameterError(f"space = {setup.space!r}: its architectures are in the benchmark")
    check_seeds(seeds)
    try:
        cells, how = cells_of(setup.searched, cell), replace(recipe_of(setup.searched), **recipe or {})
    except TypeError as error:
        raise ParameterError(f"recipe: {error}; it has {', '.join(f.name for f in fields(FinalRecipe))}") from None
    except ValueError as error:
        raise ParameterError(f"cell or recipe: {error}") from None
    options = {"cutout": how.cutout} if how.cutout else {}
    images = _prepare(replace(setup, options=options | setup.options), out)
    config = {"space": setup.space, "cells": str(cells), "recipe": asdict(how), "data": images.config,
              "threads": setup.threads}
    folder = results.where(setup.cache) / f"final-{setup.dataset}-{results.config_hash(config)}"
    runs = [train_final(cells, images, how, seed, folder / f"s{seed}.pt", default_mode() == "live") for seed in seeds]
    params, flops = network_size(cells, images.shape, how.channels, how.cells, images.classes, how.pool_norm)
    table = xr.concat(runs, "train_seed").assign(params=params, flops=flops)
    return table.assign_coords(dataset=setup.dataset, train_seed=list(seeds), **choice_of(cell)[0]).assign_attrs(
        cell=cell, genotype=str(cells), final=how.said(images), config=config, provenance=results.provenance(started, setup.device))


class _Job:
    """A supernet's method, data, configuration and folder, all checked."""

    def __init__(self, setup: Setup, out):
        self.setup, self.space = setup, setup.searched
        method = methods.stage1(_file(setup.method), **setup.hyper)
        published = method.paper if setup.protocol == "paper" else {}
        self.method: Stage1 = replace(method, **published | setup.hyper)
        if self.method.informed and not self.space.enumerable:
            raise ParameterError(f"method = {setup.method!r} is shown the true accuracies; there is no table of "
                                 f"{setup.space}")
        if setup.cells < 3 and not self.space.enumerable:
            raise ParameterError(f"cells = {setup.cells}: {setup.space} needs 3, a normal cell and two reduction cells")
        self.budget = Budget(**{f.name: getattr(setup, f.name) for f in fields(Budget) if f.name in vars(setup)})
        self.data = _prepare(setup, out)
        self.truth = benchmark.truth(setup.data).values if self.method.informed else None
        self.config = configuration(setup.name, self.method, self.space, self.data, self.budget, setup.seed, setup.rules)
        # What else decides the weights, so that a changed file or table never meets an old supernet.
        self.config["threads"] = setup.threads
        if self.truth is not None:
            self.config["truth"] = _digest(self.truth.tobytes())
        if setup.method.endswith(".py"):
            self.config["file"] = _digest(Path(_file(setup.method)).read_bytes())
        self.folder = run_folder(results.where(setup.cache), self.config)
        self.progress = default_mode() == "live"        # bars are for people, not for executed notebooks

    def train(self) -> Trained:
        return train(self.setup.name, self.method, self.space, self.data, self.budget, self.setup.seed,
                     self.truth, self.folder, self.progress, self.setup.rules)

    @property
    def swept(self) -> bool:
        """Whether the flags want the published sweep (D4, D5)."""
        return self.setup.rules.fresh_images or self.setup.rules.random_gdas and self.setup.name == "gdas"

    def rank(self, trained: Trained, x, y, views: int, part: int, parts: int, scoring: dict) -> xr.Dataset:
        """Scores of the whole space or a part, on ``x``, ``y`` or as the flags of the protocol have it."""
        rules, images = self.setup.rules, len(y)
        law = trained.log_prob if rules.random_gdas and self.setup.name == "gdas" else None
        folder = self.folder / f"rank-{rules.rank_bn}-{images}of{views}"
        if self.swept:
            folder = folder.with_name(f"{folder.name}-{rules.fresh_images}-{law is not None}")
            return published(trained.supernet, self.data, images, rules.fresh_images, law, rules.rank_bn, trained.seed,
                             folder=folder, progress=self.progress)
        calibration = self.data.fixed("train half", first=CALIBRATION)[0] if rules.rank_bn == "recalibrate" else None
        folder = folder.with_name(f"{folder.name}-{results.config_hash(scoring)}") if scoring else folder
        return joined([rank(trained.supernet, x, y, rules.rank_bn, calibration=calibration, folder=folder, part=k, parts=parts,
                            progress=self.progress, **scoring) for k in (range(parts) if part < 0 else [part])])

    def signed(self, run: xr.Dataset, started: float, trained: Trained, truth, stage: int, asked: dict, **attrs) -> xr.Dataset:
        """The result with the names and the origin that every run carries, and what was ``asked``, so that it can be again."""
        s, paper, apart = self.setup, PUBLISHED[self.space.name], self.space.enumerable
        scale = (f"Supernets of {_many(s.channels, 'channel')} and {_many(s.cells, 'cell')}{' per stage' if apart else ''} "
                 f"(published runs: {paper.channels} and {paper.cells}).")
        images = f"{len(self.data.halves()[0][1]):,} images of side {self.data.shape[-1]}"
        training = (f"Trained for {_many(s.epochs, 'epoch')} on {images} (published runs: {paper.epochs}"
                    f"{', single-path baselines 250' * apart}; on CIFAR 25,000 of side 32)." if self.method.trains else "Not trained.")
        flags = f" with {', '.join(f'{k}={v}' for k, v in s.flags.items())}" if s.flags else ""
        return run.assign_coords(dataset=s.dataset, stage1=s.name, seed=s.seed).assign_attrs(
            scale=scale, training=training, protocol=s.protocol + flags, config=self.config, **attrs,
            asked={"stage": stage, "setup": asdict(s) | {"cache": ""}} | asked, inputs=outcomes.inputs(self.data, trained, truth),
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
    if setup.device == "cuda":          # a numbered one, as cuda:1, is the user's own choice
        devices.claim()
    try:
        return data.load(setup.data, setup.device, **setup.options)
    except TypeError as error:
        raise ParameterError(f"options of {setup.data}: {error}") from None
    except RuntimeError as error:
        raise ParameterError(f"device {setup.device!r:.200}: {str(error).splitlines()[0]:.200}; 'cpu' always works, 'cuda' with "
                             "a GPU that PyTorch knows") from None


def _many(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def _file(method: str) -> str:
    """A method's file as seen from the current folder or, if it is not there, from the repository root."""
    elsewhere = method.endswith(".py") and not Path(method).is_file()
    return str(results.where(method)) if elsewhere else method


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
