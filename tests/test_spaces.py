"""NAS-Bench-201 as data: order, text, live edges and classes against known anchors and plain twins."""

import functools
import itertools
import math

import numpy as np
import pytest

from nas_lib.spaces import NB201, SPACES, Space

TINY = Space("tiny", nodes=3, ops=("none", "conv"))
ANCHORS = {
    0: "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    9: "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
    123: "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    5744: "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|nor_conv_3x3~0|skip_connect~1|skip_connect~2|",
    1835: "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
    1651: "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
}


def test_the_space():
    assert SPACES["nb201"] is NB201 and len(NB201) == 15_625
    assert NB201.edges == ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
    assert NB201.archs.shape == (15_625, 6) and NB201.archs.dtype == np.int8
    assert len(np.unique(NB201.archs, axis=0)) == len(np.unique(NB201.strings)) == 15_625
    with pytest.raises(ValueError, match="read-only"):
        NB201.archs[0, 0] = 1


@pytest.mark.parametrize("index", ANCHORS)
def test_benchmark_order(index):
    assert NB201.strings[index] == NB201.string(NB201.archs[index]) == ANCHORS[index]
    assert NB201.index(NB201.parse(ANCHORS[index])) == index


def test_text_array_and_index_agree_everywhere():
    np.testing.assert_array_equal(NB201.index(NB201.archs), np.arange(15_625))
    parsed = np.stack([NB201.parse(str(text)) for text in NB201.strings])
    np.testing.assert_array_equal(parsed, NB201.archs)
    pairs = NB201.index(NB201.archs[[[3, 1], [4, 1]]])
    np.testing.assert_array_equal(pairs, [[3, 1], [4, 1]])


@pytest.mark.parametrize("text", [
    "", "none", ANCHORS[0][1:], ANCHORS[0] + "+|none~0|", "|none~0|+|none~0|none~1|",
    ANCHORS[0].replace("skip_connect", "skip", 1), ANCHORS[1651].replace("~2", "~1")])
def test_a_text_that_is_no_architecture(text):
    with pytest.raises(ValueError, match="not an architecture of nb201: .*expected the form"):
        NB201.parse(text)


@pytest.mark.parametrize("archs, message", [
    (np.zeros(5, int), "has 6 edges, got an array of shape"), (np.zeros((2, 7), int), "has 6 edges"),
    (0, "has 6 edges"), ([0, 0, 0, 0, 0, 5], "run from 0 to 4"), ([0, 0, -1, 0, 0, 0], "run from 0 to 4")])
def test_an_array_that_is_no_architecture(archs, message):
    with pytest.raises(ValueError, match=message):
        NB201.index(archs)


# --- live edges ------------------------------------------------------------------------------------

def live_by_paths(arch, space, fed=True):
    """Edges on a path of operations other than none: from the input (or any node) to the output."""
    on = {(s, t): e for e, (t, s) in enumerate(space.edges) if space.ops[arch[e]] != "none"}
    live = np.zeros(len(space.edges), dtype=bool)
    for length in range(2, space.nodes + 1):
        for path in itertools.combinations(range(space.nodes), length):
            steps = list(itertools.pairwise(path))
            if path[-1] == space.nodes - 1 and (path[0] == 0 or not fed) and all(s in on for s in steps):
                live[[on[s] for s in steps]] = True
    return live


@pytest.mark.parametrize("fed", [True, False])
def test_live_edges_are_those_on_a_path(fed):
    expected = np.stack([live_by_paths(a, NB201, fed) for a in NB201.archs])
    np.testing.assert_array_equal(NB201.live(NB201.archs, fed), expected)
    np.testing.assert_array_equal(NB201.live(NB201.archs[7], fed), expected[7])


def test_cells_that_remain_without_dead_edges():
    assert (~NB201.connected(NB201.archs)).sum() == 341
    for fed, count in ((False, 12_205), (True, 9_445)):
        pruned = np.where(NB201.live(NB201.archs, fed), NB201.archs, 0)
        assert len(np.unique(pruned, axis=0)) == count


# --- laws -----------------------------------------------------------------------------------------

def test_log_prob_sums_to_one_and_equals_the_product():
    probs = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 6))  # two laws at once
    logs = NB201.log_prob(probs)
    assert logs.shape == (2, 15_625)
    np.testing.assert_allclose(np.exp(logs).sum(-1), 1)
    for i in (0, 9, 5744):
        product = math.prod(probs[1, e, op] for e, op in enumerate(NB201.archs[i]))
        assert logs[1, i] == pytest.approx(math.log(product))


@pytest.mark.filterwarnings("error")
def test_a_law_on_one_architecture():
    logs = NB201.log_prob(np.eye(5)[NB201.archs[42]])
    assert logs[42] == 0 and np.isneginf(np.delete(logs, 42)).all()


# --- classes ----------------------------------------------------------------------------------------

classes = functools.cache(NB201.classes)  # seconds each


@pytest.mark.parametrize("same, count", [("form", 4930), ("usual", 6466), ("function", 5260),
                                         ("weights", 7810)])
def test_classes(same, count):
    found = classes(same)
    assert len(np.unique(found)) == count
    assert (found <= np.arange(15_625)).all() and (found[found] == found).all()
    if same != "usual":  # there a zero term still tells cells apart
        assert len(np.unique(found[~NB201.connected(NB201.archs)])) == 1


def test_classes_from_coarse_to_fine():
    form, function, weights = (classes(s) for s in ("form", "function", "weights"))
    assert (form[function] == form).all() and (function[weights] == function).all()


def test_classes_by_hand():
    def same(kind, *texts):
        return len({classes(kind)[NB201.index(NB201.parse(t))] for t in texts}) == 1

    conv, skip, none = "nor_conv_3x3", "skip_connect", "none"

    def cell(a, b, c, d, e, f):
        return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"

    direct = cell(none, none, none, conv, none, none)
    through = cell(conv, none, none, none, skip, none)  # the same network, its convolution elsewhere
    assert same("function", direct, through) and not same("weights", direct, through)
    shared = cell(conv, none, skip, none, skip, skip)  # 2 f(x), one layer
    twice = cell(conv, conv, none, none, skip, skip)  # f(x) + g(x), two layers
    assert same("form", shared, twice) and not same("function", shared, twice)
    with pytest.raises(ValueError, match="unknown equivalence 'name'"):
        NB201.classes("name")


# --- another space -------------------------------------------------------------------------------------

def test_a_tiny_space_by_hand():
    assert len(TINY) == 8 and TINY.edges == ((1, 0), (2, 0), (2, 1))
    np.testing.assert_array_equal(TINY.archs, list(itertools.product(range(2), repeat=3)))
    assert TINY.strings[5] == "|conv~0|+|none~0|conv~1|"
    np.testing.assert_array_equal(TINY.index(TINY.archs), np.arange(8))
    np.testing.assert_array_equal(TINY.live(TINY.archs).sum(1), [0, 0, 1, 1, 0, 2, 1, 3])
    np.testing.assert_array_equal(TINY.live(TINY.archs, fed=False).sum(1), [0, 1, 1, 2, 0, 2, 1, 3])
    np.testing.assert_array_equal(TINY.live(TINY.archs), [live_by_paths(a, TINY) for a in TINY.archs])
    np.testing.assert_array_equal(TINY.classes("weights"), [0, 0, 2, 2, 0, 5, 2, 7])
    np.testing.assert_allclose(np.exp(TINY.log_prob(np.full((3, 2), 0.5))), 1 / 8)


def test_a_space_without_none_is_always_live():
    space = Space("full", nodes=3, ops=("skip_connect", "conv"))
    assert space.live(space.archs).all() and space.connected(space.archs).all()


def test_what_the_stages_ask_of_any_space():
    assert NB201.cells == ((0, 1, 2, 3, 4, 5),) and NB201.crowded(NB201.cells[0]) == [] and NB201.size == 15_625
    assert NB201.taken(None).all() and (NB201.stay == np.arange(5)).all()
    arch, rng = NB201.archs[77], np.random.default_rng(0)
    mutants = np.array([NB201.mutated(arch, rng) for _ in range(600)])
    assert ((mutants != arch).sum(1) == 1).all() and len(np.unique(mutants, axis=0)) == 6 * 4
    assert NB201.name_of(arch) == 77 and (NB201.named([77]) == arch).all()
    twins = NB201.networks(np.arange(len(NB201)))
    assert (twins == NB201.classes("weights")).all()
    weights = np.array([[0.2, 0.4, 0.4], [0.5, 0.1, 0.4]])
    assert NB201.strongest(weights).tolist() == [1, 0]
