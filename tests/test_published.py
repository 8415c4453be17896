"""Supernets that others trained: what fits is loaded, what does not is named."""

import pytest
import torch

from nas_lib.spaces import NB201
from nas_lib.supernet import StateError, Supernet, load_published

SHAPE = {"channels": 4, "cells": 1, "classes": 7}


def published(**changes):
    """A state as the published code stores it, logits included, with nothing at its initial value."""
    generator = torch.Generator().manual_seed(0)
    state = Supernet(NB201, 4, 1, 7, 3).state_dict()
    state = {k: torch.rand(v.shape, generator=generator) if v.is_floating_point() else v + 3
             for k, v in state.items()}
    return state | {"_arch_parameters": torch.zeros(6, 5)} | changes


def test_every_tensor_arrives():
    state = published()
    own = load_published(state, "nb201", **SHAPE).state_dict()
    assert state.keys() - own.keys() == {"_arch_parameters"}
    for name, tensor in own.items():
        assert torch.equal(tensor, state[name]), name


def test_it_computes_as_the_supernet_it_came_from():
    net = Supernet(NB201, 4, 1, 7, 3)
    x, arch = torch.randn(4, 3, 8, 8), torch.as_tensor(NB201.archs[5744]).long()
    loaded = load_published({k: v.numpy() for k, v in net.state_dict().items()}, "nb201", **SHAPE)
    assert torch.equal(loaded(x, arch), net(x, arch))


def test_images_with_one_channel_and_old_states_without_counters():
    state = {k: v for k, v in Supernet(NB201, 4, 1, 7, 1).state_dict().items() if "num_batches" not in k}
    assert load_published(state, "nb201", **SHAPE).stem[0].weight.shape[1] == 1


def test_all_that_does_not_fit_is_named_at_once():
    state = published(**{"classifier.weight": torch.zeros(10, 16), "head.weight": torch.zeros(1)})
    del state["lastact.0.bias"]
    with pytest.raises(StateError) as error:
        load_published(state, "nb201", **SHAPE)
    for part in ("missing: lastact.0.bias", "unknown: head.weight",
                 "classifier.weight is (10, 16), not (7, 16)", "channels=4"):
        assert part in str(error.value)


@pytest.mark.parametrize("value", ["text", None, [1, "a"], {"a": 1}])
def test_what_is_no_tensor_is_named(value):
    with pytest.raises(StateError, match="classifier.bias is no tensor"):
        load_published(published(**{"classifier.bias": value}), "nb201", **SHAPE)


def test_another_size_lists_a_few_faults_and_counts_the_rest():
    with pytest.raises(StateError, match=r"and \d+ more; check these four numbers"):
        load_published(published(), "nb201", channels=8, cells=2, classes=7)


def test_an_unknown_space():
    with pytest.raises(ValueError, match="unknown space 's9'"):
        load_published(published(), "s9", **SHAPE)
