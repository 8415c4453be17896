"""Made-up results with the dimensions and names of real ones, for the tests of what shows them."""

import numpy as np
import pytest
import xarray as xr

from nas_lib import checkpoint

STAGE1 = ["none", "none+", "rsps", "rsps+", "darts", "gdas"]
STAGE2 = ["prune", "valid", "synflow", "jacob_cov"]
SEEDS = [0, 1, 2]


def pytest_addoption(parser):
    parser.addoption("--method", action="append", default=[], metavar="FILE.py",
                     help="a Stage-1 or Stage-2 method of your own, tested like the built-in ones")
    parser.addoption("--online", action="store_true", help="ask the package registry for known vulnerabilities")


@pytest.fixture(autouse=True)
def store_always(monkeypatch):
    """Tests stop work after milliseconds, and look at what is stored then."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)


@pytest.fixture(scope="session")
def evaluation() -> xr.Dataset:
    """What ``evaluate_stage1`` returns: ``(stage1, seed, threshold)`` and ``(stage1, seed)``."""
    rng = np.random.default_rng(0)
    size = (len(STAGE1), len(SEEDS), 24)
    random = np.arange(1, 25) / 25
    skill = np.linspace(1, 0.2, len(STAGE1))[:, None, None] + 0.05 * rng.random((len(STAGE1), len(SEEDS), 1))
    law = np.array([1, 0.4, 1, 0.4, 0.5, 0.6])[:, None, None]
    single = {name: (("stage1", "seed"), rng.random(size[:2]) * scale) for name, scale in {
        "spearman": 1, "kendall": 1, "distinct": 300, "chance_share": 1, "ties": 40,
        "expected_accuracy": 80, "entropy": 9.6}.items()}
    curve = ("stage1", "seed", "threshold")
    return xr.Dataset(
        {"top_identification": (curve, np.broadcast_to(random**skill, size)),
         "sampling_mass": (curve, np.broadcast_to(random**law, size)),
         "random": ("threshold", random), **single},
        coords={"stage1": STAGE1, "seed": SEEDS, "threshold": np.arange(24),
                "error": ("threshold", np.geomspace(18, 60, 24))})


@pytest.fixture(scope="session")
def choices() -> xr.Dataset:
    """What ``evaluate_stage2`` returns: ``accuracy(stage1, stage2, seed)`` and ``reliance``."""
    from nas_lib.metrics import reliance

    rng = np.random.default_rng(1)
    accuracy = xr.DataArray(
        76 + 6 * rng.random((len(STAGE1), len(STAGE2), len(SEEDS))), dims=("stage1", "stage2", "seed"),
        coords={"stage1": STAGE1, "stage2": STAGE2, "seed": SEEDS})
    return xr.Dataset({"accuracy": accuracy, "reliance": reliance(accuracy)})


@pytest.fixture(scope="session")
def bench() -> xr.Dataset:
    """What ``benchmark.load`` returns: ``test(arch, train_seed)``; 341 cells that cannot learn."""
    from nas_lib.spaces import NB201

    rng = np.random.default_rng(2)
    good = 78 + 1.2 * (NB201.archs == 3).sum(1) - 0.8 * (NB201.archs == 0).sum(1)
    mean = np.where(NB201.connected(NB201.archs), good, 10.0)
    test = mean[:, None] + rng.normal(0, 0.4, (len(NB201), 6))
    return xr.Dataset({"test": (("arch", "train_seed"), test)},
                      coords={"arch": NB201.strings, "train_seed": range(6)},
                      attrs={"nb201_spearman": '{"cifar10": 0.8, "cifar100": 0.7, "ImageNet16-120": 0.6}'})


@pytest.fixture(scope="session")
def runs(bench) -> xr.Dataset:
    """What ``results.load`` returns for Stage 1: ``score``, ``probs`` and histories."""
    rng = np.random.default_rng(3)
    truth = bench.test.mean("train_seed").values
    skill = np.linspace(0, 1, len(STAGE1))[:, None, None]
    score = 40 + skill * (truth - 78) * 8 + rng.normal(0, 8, (len(STAGE1), len(SEEDS), len(truth)))
    probs = rng.dirichlet(np.full(5, 2.0), (len(STAGE1), len(SEEDS), 6))
    run, epochs = (len(STAGE1), len(SEEDS)), np.arange(8)
    fall = np.exp(-epochs / 4) + 0.1 * rng.random((*run, 8))
    curve = ("stage1", "seed", "epoch")
    return xr.Dataset(
        {"score": (("stage1", "seed", "arch"), np.clip(score, 0, 100).round(1)),
         "probs": (("stage1", "seed", "edge", "op"), probs), "train_loss": (curve, 2.3 * fall),
         "train_accuracy": (curve, 80 - 60 * fall), "valid_accuracy": (curve, 75 - 60 * fall)},
        coords={"stage1": STAGE1, "seed": SEEDS, "arch": bench.arch.values, "epoch": epochs,
                "edge": ["1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"],
                "op": ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]},
        attrs={"scale": "A made-up run.", "images": 256, "bn": "batch"})
