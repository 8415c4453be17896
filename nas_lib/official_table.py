"""The table of NAS-Bench-201, filled with the results of one architecture after the other.

Accuracies ``test``, ``valid``, ``ori_test`` (budget, dataset, arch, train_seed) are in percent, after the last of
12 or 200 epochs, which are separate trainings. On CIFAR-10 ``test`` and ``ori_test`` are those of networks trained
on 50,000 images (the files' ``cifar10``), ``valid`` of networks trained on 25,000 (``cifar10-valid``). On the others
``test`` and ``valid`` are the two halves of the official test set (``x-test``, ``x-valid``), ``ori_test`` all of it.
``params``, ``flops`` (dataset, arch): weights and multiply-accumulates for one image; ``seconds`` (budget, dataset,
arch): training time as recorded, mean over the seeds. What a source does not have is NaN.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from nas_lib.spaces import NB201

CLASSES = {"cifar10": 10, "cifar100": 100, "ImageNet16-120": 120}
DATASETS = list(CLASSES)
BUDGETS = (12, 200)
KEYS = {"less": 12, "full": 200, "12": 12, "200": 200}      # the files' names of the two trainings
ACCURACIES = ("test", "valid", "ori_test")
# Where the files keep an accuracy: the data set of the run, the images it was evaluated on.
READ = {(d, v): (d, images) for d in CLASSES
        for v, images in zip(ACCURACIES, ("x-test", "x-valid", "ori-test"), strict=True)}
READ |= {("cifar10", "test"): ("cifar10", "ori-test"), ("cifar10", "valid"): ("cifar10-valid", "x-valid")}
SEEDS = 8                                                   # room for training seeds; the files have at most 4
COLUMNS = {"cifar10": "c10", "cifar100": "c100", "ImageNet16-120": "in16"}


class Row(int):
    """The row of an architecture that is in the table already."""


class Table:
    """Arrays ``[budget, dataset, arch, seed]`` that are filled one architecture at a time.

    Raises ValueError, KeyError, TypeError or AttributeError for what is not results of NAS-Bench-201.
    """

    def __init__(self):
        shape = (len(BUDGETS), len(DATASETS), len(NB201), SEEDS)
        self.values = {v: np.full(shape, np.nan) for v in (*ACCURACIES, "seconds", "params", "flops")}
        self.rows = {text: i for i, text in enumerate(NB201.strings.tolist())}
        self.seeds: dict[int, int] = {}

    def add(self, found) -> Row:
        """Take over the results of one architecture: dictionaries, or the API's objects with the same names."""
        row = None
        for key, budget in KEYS.items():
            if key in found:
                info = _plain(found[key])
                here = self.rows.get(info["arch_str"])
                if here is None or row not in (None, here):
                    raise ValueError("it holds an architecture that is not one of NAS-Bench-201")
                row = here
                for (dataset, seed), run in info["all_results"].items():
                    self._run(budget, dataset, row, int(seed), _plain(run))
        if row is None:
            raise ValueError("an architecture has no results")
        return Row(row)

    def _run(self, budget, dataset, row, seed, run):
        if run["epochs"] != budget:
            raise ValueError(f"what it calls the results of {budget} epochs is of another training")
        b, s = BUDGETS.index(budget), self.seeds.setdefault(seed, len(self.seeds))
        if s >= SEEDS:
            raise ValueError(f"it has more than {SEEDS} training seeds")
        for (d, name), (trained, images) in READ.items():
            accuracy = run["eval_acc1es"].get(f"{images}@{budget - 1}") if trained == dataset else None
            if accuracy is not None:
                if not 0 <= accuracy <= 100:
                    raise ValueError("it holds an accuracy that is no percentage")
                self.values[name][b, DATASETS.index(d), row, s] = accuracy
        if dataset in CLASSES:
            at = b, DATASETS.index(dataset), row, s
            times = run.get("train_times")
            self.values["seconds"][at] = sum(times.values()) if times else np.nan    # old runs did not record them
            self.values["params"][at], self.values["flops"][at] = 1e6 * run["params"], 1e6 * run["flop"]

    @staticmethod
    def check(name: str, row: int) -> None:
        """That the results in ``row`` are those of the architecture ``name``."""
        if name != NB201.strings[row]:
            raise ValueError("an architecture has the results of another one")

    def dataset(self) -> xr.Dataset:
        """What was added, without the room that was not needed."""
        if not self.seeds:
            raise ValueError("it has no results")
        seeds = sorted(self.seeds)
        kept = {v: a[..., [self.seeds[s] for s in seeds]] for v, a in self.values.items()}
        # Where runs disagree about the size of their network, that of seed 888 is right (NATS-Bench API 1.6).
        order = sorted(range(len(seeds)), key=lambda s: seeds[s] != 888)
        sizes = {v: _first([kept[v][b, ..., s] for b in (1, 0) for s in order]) for v in ("params", "flops")}
        seconds = _mean(kept["seconds"])
        return described(assemble({v: kept[v] for v in ACCURACIES} | sizes | {"seconds": seconds}, seeds))


def from_csv(frame: pd.DataFrame) -> xr.Dataset:
    """The table of a CSV file of means over seeds, with one training seed, ``"mean"``.

    Columns ``arch``, ``c10_test``, ``c100_test``, ``in16_test`` and, if there, ``*_valid``, the same after 12 epochs
    with ``e12_`` before the name, ``n_seeds``, ``params_m``, ``flops_m`` of the CIFAR-10 networks, and ``v10_*_test``,
    ``v10_source``: accuracies in the older release. Raises ValueError, KeyError.
    """
    place = {text: i for i, text in enumerate(NB201.strings.tolist())}
    rows = frame["arch"].map(place)
    if rows.isna().any() or rows.duplicated().any():
        raise ValueError("its column arch does not hold architectures of NAS-Bench-201, each once")
    rows = rows.astype(int).to_numpy()

    def column(name, needed=False):
        values = np.full(len(NB201), np.nan)
        if needed or name in frame:
            values[rows] = pd.to_numeric(frame[name])
        return values

    def accuracy(before, after, needed=False):
        values = np.stack([column(f"{before}{c}_{after}", needed) for c in COLUMNS.values()])
        if ((values < 0) | (values > 100)).any():
            raise ValueError("it holds an accuracy that is no percentage")
        return values

    values = {"test": np.stack([accuracy("e12_", "test"), accuracy("", "test", True)]),
              "valid": np.stack([accuracy("e12_", "valid"), accuracy("", "valid")])}
    values["ori_test"] = (values["test"] + values["valid"]) / 2             # of two halves of the same size
    values["ori_test"][:, 0] = values["test"][:, 0]
    weights, flops = np.rint(1e6 * column("params_m")), np.rint(1e6 * column("flops_m"))
    # Only the classifier (64 inputs) and the image's area differ from data set to data set.
    sizes = {"params": np.stack([weights + 65 * (n - 10) for n in CLASSES.values()]),
             "flops": np.stack([flops, flops + 64 * 90, (flops - 640) / 4 + 64 * 120])}
    sizes["seconds"] = np.full((len(BUDGETS), len(DATASETS), len(NB201)), np.nan)
    older = accuracy("v10_", "test")
    if not np.isnan(older).all():
        sizes["v10"] = older
    return described(assemble({v: a[..., None] for v, a in values.items()} | sizes, ["mean"]))


def assemble(values: dict, seeds) -> xr.Dataset:
    """The dataset of these arrays. Raises ValueError if their shapes do not fit."""
    full = ("budget", "dataset", "arch", "train_seed")
    dims = dict.fromkeys(ACCURACIES, full) | dict.fromkeys(("params", "flops", "v10"), full[1:3])
    dims["seconds"] = full[:3]
    return xr.Dataset({v: (dims[v], a) for v, a in values.items()}, coords={
        "budget": list(BUDGETS), "dataset": DATASETS, "arch": NB201.strings, "train_seed": seeds})


def described(table: xr.Dataset) -> xr.Dataset:
    """``table`` with an attribute that says what it lacks. Raises ValueError if that is all."""
    if table["test"].isnull().all():
        raise ValueError("it has no test accuracy")
    lacks = sum(table[v].isnull().all("train_seed") for v in ACCURACIES).astype(bool).sum("arch")
    return table.assign_attrs(missing="; ".join(
        f"{int(n)} architectures after {b} epochs on {d}" for b in BUDGETS for d in DATASETS
        if (n := lacks.sel(budget=b, dataset=d))))


def _plain(value):
    return value if isinstance(value, dict) else vars(value)


def _mean(values):
    """Mean over the last axis of what is there."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)


def _first(arrays):
    """The first of ``arrays`` that is not NaN, element by element."""
    found = arrays[0]
    for a in arrays[1:]:
        found = np.where(np.isnan(found), a, found)
    return found
