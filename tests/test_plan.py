"""What is counted without numbers is what is there, and a machine needs the longest of its times."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from nas_lib import plan, results
from nas_lib.proxies import size
from nas_lib.spaces import NB201
from nas_lib.supernet import Supernet


def test_counts_are_those_of_the_network():
    with torch.device("meta"):
        net = Supernet(NB201, 4, 1)
    arch = NB201.archs[11_111].astype(np.int64)
    _, multiplies = size(net, arch, (3, 32, 32))
    flops, touched, kernels = plan.counted(net, 2, torch.from_numpy(arch), False)
    assert flops == pytest.approx(2 * 2 * multiplies[0], rel=1e-3) and touched > 0 and kernels > 10
    back = plan.counted(net, 2, torch.from_numpy(arch), True)
    assert (back > [2 * flops, 2 * touched, kernels]).all()
    half = plan.counted(net, 2, torch.from_numpy(arch), False, side=16)
    assert half[0] == pytest.approx(flops / 4, rel=1e-3) and half[1] == pytest.approx(touched / 4, rel=0.05)


def test_together_less_is_computed():
    with torch.device("meta"):
        net = Supernet(NB201, 4, 1)
    alike = NB201.archs[[5, 5, 5, 5]].astype(np.int64)
    once, often = plan.together(net, alike[:1], 2), plan.together(net, alike, 2)
    assert once[0] > 3 * often[0] and once[2] == pytest.approx(4 * often[2], rel=0.2)
    found = plan.blocks(net, 64, 32)
    assert found["ranked"].shape == found["scored"].shape == (128, 6)
    assert plan.together(net, found["ranked"], 2)[0] < plan.counted(net, 2, torch.full((6,), 3), False)[0]


def test_the_longest_time_counts():
    work = pd.DataFrame({"unit": ["ranked", "mixed alpha"], "flops": [100.0, 0], "bytes": [10.0, 30], "kernels": [1, 2]})
    seconds = plan.Machine(flops=50, bandwidth=10, share=0.5, launch=3, recorded=2).seconds(work)
    assert seconds.to_numpy().tolist() == [[4, 2, 3], [0, 6, 4]]


def test_work_of_a_campaign():
    campaign = yaml.safe_load(results.where("notebooks/campaigns/paper.yaml").read_text())
    campaign["parameters"] |= {"channels": 2, "cells": 1}
    work = plan.work(campaign).set_index(["data", "stage1", "work"])["count"]
    assert work["cifar10", "darts", "train: mixed steps of weights"] == 100 * 391
    assert work["cifar10", "rsps", "train: sampled steps of weights"] == 250 * 391
    assert work["cifar10", "gdas", "train: sampled steps of alpha"] == work["cifar10", "gdas", "train: sampled steps of weights"] == 100 * 391
    assert ("cifar10", "none", "rank the space") not in work.index and work["cifar10", "darts", "rank the space"] > 0
    assert ("cifar10", "rsps", "train: mixed steps of alpha") not in work.index


def test_runs_on_several_devices():
    assert plan.makespan([3, 1, 2, 2], 1) == 8 and plan.makespan([3, 1, 2, 2], 2) == 4 and plan.makespan([3, 1], 9) == 3
