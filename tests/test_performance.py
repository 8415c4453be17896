"""Both sides of a timing do the same work. How long it takes is no test's business."""

import pytest

from nas_lib import growth, performance


def test_sides_take_turns():
    calls = []
    seconds = performance.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3 and seconds.dims == ("side", "round") and seconds.shape == (2, 2)
    assert (seconds >= 0).all() and seconds.side.values.tolist() == ["a", "b"]


@pytest.mark.parametrize("method", ["darts", "gdas"])
@pytest.mark.parametrize("channels, side", [(4, 6), (4, 24)])           # compiled, and not
def test_a_step_is_the_same_either_way(method, channels, side):
    seconds = performance.training_step(method, channels, 1, side, batch=8, rounds=2)
    assert seconds.attrs["agreement"] < 1e-4 and (seconds > 0).all() and seconds.attrs["multiplies"] > 1e5
    assert ("bfloat16" in seconds.side) == (channels * side**2 > 2048)


@pytest.mark.parametrize("rule", ["batch", "recalibrate", "running"])
def test_scores_are_the_same_either_way(rule):
    seconds = performance.ranking_pass(4, 1, 6, images=16, few=2, block=4, rounds=1, rule=rule, blocks=1)
    assert seconds.attrs["agreement"] < 1e-4 and seconds.shape == (3, 1)


def test_the_other_timings_run():
    assert performance.selection(2, 1, 6, candidates=2, images=8, batch=8, rounds=1).shape == (3, 1)
    assert performance.attainable(2, 1, 8, batch=4, rounds=1) > 0


def test_images_are_timed_beside_steps():
    seconds = growth.augmentation([(2, 1, 8)], batch=8, rounds=2).seconds
    assert seconds.dims == ("shape", "work") and seconds.shape == (1, 3) and (seconds > 0).all()
