"""Selecting the best of the drawn candidates, against choices made by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

import tiny
from nas_lib.selection import ConstantScore, best_of

TRAINED = SimpleNamespace(space=tiny.SPACE)
CLASSES = tiny.SPACE.classes("weights")
DIFFERENT = np.unique(CLASSES)              # indices of different networks


def select(table, candidates, calls=None):
    """The choice by a score looked up in ``table {index: score}``."""

    def score(trained, archs, data, seed):
        rows = trained.space.index(archs).tolist()
        if calls is not None:
            calls.append((rows, data, seed))
        return np.array([table[i] for i in rows])

    return best_of(score)(TRAINED, "data", np.array(candidates), 5)


def test_the_best_is_taken_and_all_scores_are_kept():
    a, b, c = DIFFERENT[:3]
    choice = select({a: 1, b: 3, c: 2}, [c, a, b])
    assert (choice.arch, choice.ties) == (b, 1)
    np.testing.assert_array_equal(choice.scores, [2, 1, 3])
    assert choice.seconds > 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_first_drawn_wins_among_equals(order):
    drawn = [DIFFERENT[i] for i in order]
    choice = select({DIFFERENT[0]: 7, DIFFERENT[1]: 1, DIFFERENT[2]: 7}, drawn)
    assert choice.arch == next(i for i in drawn if i != DIFFERENT[1])
    assert choice.ties == 2


def test_a_candidate_drawn_twice_is_scored_once_and_no_tie():
    a, b = DIFFERENT[:2]
    calls = []
    choice = select({a: 1, b: 2}, [b, a, b, b], calls)
    assert calls == [(sorted([a, b]), "data", 5)]
    assert (choice.arch, choice.ties) == (b, 1)
    np.testing.assert_array_equal(choice.scores, [2, 1, 2, 2])


def test_missing_scores_are_passed_over():
    a, b, c = DIFFERENT[:3]
    choice = select({a: np.nan, b: -5, c: -6}, [a, c, b])
    assert (choice.arch, choice.ties) == (b, 1)
    np.testing.assert_array_equal(choice.scores, [np.nan, -6, -5])


def test_nothing_to_select_by_is_an_error():
    a, b, c = DIFFERENT[:3]
    with pytest.raises(ConstantScore, match="3 different networks all score 4"):
        select({a: 4, b: 4, c: 4}, [a, b, c])
    with pytest.raises(ConstantScore, match="2 different networks all score 4"):
        select({a: 4, b: np.nan, c: 4}, [a, b, c])
    with pytest.raises(ConstantScore, match="none of 2 candidates could be scored"):
        select({a: np.nan, b: np.nan}, [a, b, a])


def test_one_network_may_score_alike():
    twins = np.flatnonzero(CLASSES == np.bincount(CLASSES).argmax())
    assert len(twins) > 2
    assert select({i: 4.0 for i in twins}, twins[::-1]).arch == twins[-1]
    assert select({DIFFERENT[1]: 0.0}, [DIFFERENT[1]] * 3).arch == DIFFERENT[1]
