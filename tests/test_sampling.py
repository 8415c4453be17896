"""Laws over a space and draws from them, against hand-made numbers."""

import numpy as np
import pytest

from nas_lib.sampling import draw, rank_law, threshold_law


def test_the_ideal_law_is_proportional_to_rank():
    np.testing.assert_allclose(rank_law([70, 10, 90, 80]), np.array([1, 0, 3, 2]) / 6)


def test_equal_accuracies_rank_by_index():
    np.testing.assert_allclose(rank_law([5, 5, 1, 5]), np.array([1, 2, 0, 3]) / 6)


@pytest.mark.parametrize("law", [rank_law, threshold_law])
def test_the_ideal_law_needs_every_accuracy(law):
    with pytest.raises(ValueError, match="accuracy of every architecture; some are missing"):
        law([1, np.nan, 2])


def test_the_threshold_law_by_hand():
    weights = np.array([100, 100, 20, 10, 10, 1, 0, 0])     # gaps 0, 0.05, 0.1, 0.5, 0.9, 1, 2, 84
    np.testing.assert_allclose(threshold_law([94, 93.95, 93.875, 93.5, 93.125, 93, 92, 10]), weights / weights.sum())


def test_draws_follow_the_law():
    p = np.array([0.5, 0.3, 0.15, 0.05, 0])
    n = 20_000
    with np.errstate(divide="ignore"):
        drawn = draw(np.log(p), n, seed=0)
    error = np.abs(np.bincount(drawn, minlength=5) / n - p)
    assert (error <= 4 * np.sqrt(p * (1 - p) / n)).all()        # four standard deviations; 0 for p = 0


def test_the_law_need_not_be_normalised():
    log_p = np.log([0.2, 0.5, 0.3])
    np.testing.assert_array_equal(draw(log_p + 3, 50, seed=1), draw(log_p, 50, seed=1))


def test_the_seed_decides_the_draw():
    log_p = np.zeros(1000)
    np.testing.assert_array_equal(draw(log_p, 100, seed=3), draw(log_p, 100, seed=3))
    assert (draw(log_p, 100, seed=3) != draw(log_p, 100, seed=4)).any()
    assert len(set(draw(log_p[:20], 100, seed=3).tolist())) < 21    # with replacement
