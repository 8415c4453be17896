"""S0 to S4 as data: tables, discretisation, the sampling law, arrays and text."""

import itertools

import numpy as np
import pytest

from nas_lib.spaces import S0, S1, S2, S3, S4, SPACES

ALL = (S0, S1, S2, S3, S4)
ids = pytest.mark.parametrize("space", ALL, ids=lambda s: s.name)


def logits(space, seed=0, spread=1.0):
    return spread * np.random.default_rng(seed).standard_normal((28, len(space.ops)))


def test_edges_nodes_and_operations():
    assert [SPACES[s.name] is s for s in ALL] == 5 * [True] and [s.name for s in ALL] == ["s0", "s1", "s2", "s3", "s4"]
    assert S0.edges[:5] == ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2)) and S0.edges[13] == (5, 4)
    assert S0.edges[14] == (8, 6) and S0.edges[27] == (11, 10) and S0.nodes == 12
    assert [e.tolist() for e in S0.incoming[:4]] == [[0, 1], [2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12, 13]]
    assert [len(e) for e in S0.incoming] == 2 * [2, 3, 4, 5]
    assert S0.ops == ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
                      "dil_conv_5x5")
    assert S3.ops == ("none", "skip_connect", "sep_conv_3x3") and S4.ops == ("noise", "sep_conv_3x3")
    assert S1.ops == ("first", "second") and all(len(s.table) == 28 for s in ALL)


def test_the_table_of_s1():
    m, a, k, s = "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3"
    d3, d5 = "dil_conv_3x3", "dil_conv_5x5"
    normal = [(k, d3), (k, d5), (k, d5), (k, s), (k, d3), (m, k), (k, s), (k, s), (k, d3), (k, s), (m, k), (k, d3),
              (d3, d5), (d3, d5)]
    reduce = [(m, a), (m, d3), (m, a), (m, a), (k, d5), (m, a), (m, s), (k, d3), (k, d5), (m, a), (m, a), (k, d5),
              (k, d5), (k, d5)]
    assert S1.table == (*normal, *reduce)


def test_sizes():
    pairs = 1 * 3 * 6 * 10                  # which two edges each node takes
    assert S0.size == (pairs * 7**8)**2
    assert S1.size == S2.size == S3.size == S4.size == (pairs * 2**8)**2        # none is no choice


# --- discretisation -------------------------------------------------------------------------------

def softmax(alpha):
    p = np.exp(alpha - alpha.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def pruned(space, p):
    """The rule one edge at a time: [(operation, source)], by falling strength."""
    pairs = []
    for cell in (0, 14):
        start = cell
        for node in range(4):
            edges = list(range(start, start + 2 + node))
            start += 2 + node
            allowed = {e: [o for o, op in enumerate(space.table[e]) if op != "none"] for e in edges}
            edges.sort(key=lambda e: -max(p[e, o] for o in allowed[e]))
            for e in edges[:2]:
                best = max(allowed[e], key=lambda o: p[e, o])
                pairs.append((space.table[e][best], space.edges[e][1] % 6))
    return tuple(pairs[:8]), tuple(pairs[8:])


@ids
def test_prune_keeps_two_edges_and_their_best_operation(space):
    for seed in range(20):
        alpha = logits(space, seed)
        if seed % 2:
            alpha = alpha.round()           # ties between operations and between edges
        arch = space.prune(alpha)
        none = [[op == "none" for op in row] for row in space.table]
        cells = space.genotype(arch, np.where(none, 0, softmax(alpha)).max(-1))
        assert (cells.normal, cells.reduce) == pruned(space, softmax(alpha))
        np.testing.assert_array_equal(space.encode(cells), arch)


def test_ties_go_to_the_lower_edge_and_operation():
    arch = S0.prune(np.zeros((28, 7)))
    assert S0.string(arch) == "m0 m1 m0 m1 m0 m1 m0 m1 / m0 m1 m0 m1 m0 m1 m0 m1"
    assert S3.string(S3.prune(np.zeros((28, 3)))).split(" / ")[0] == "k0 k1 k0 k1 k0 k1 k0 k1"


def test_none_takes_probability_but_is_not_kept():
    alpha = np.zeros((28, 3))
    alpha[5, 0] = 5.0                       # nearly all of edge 5 is none: its other operations are weak
    arch = S3.prune(alpha)
    assert arch[5] == -1 and (arch[[6, 7]] == 1).all()


def test_strongest_takes_weights_as_they_are():
    w = np.zeros((28, 7))
    w[[0, 1, 3, 4, 5, 8, 10, 13], 3] = 1.0
    w[14:, 5] = 0.5
    w[[14, 20, 27]] = 0                     # left out altogether
    arch = S0.strongest(w)
    np.testing.assert_array_equal(np.flatnonzero(arch[:14] >= 0), [0, 1, 3, 4, 5, 8, 10, 13])
    assert arch[27] == -1 and arch[20] == -1 and arch[14] == 0
    w[3, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        S0.strongest(w)
    with pytest.raises(ValueError, match=r"of shape \(28, 7\), got \(14, 7\)"):
        S0.prune(w[:14] * 0)


# --- the sampling law -----------------------------------------------------------------------------

def probability(space, p, arch):
    """Both orders in which a node's two edges can be drawn, node after node."""
    total = 1.0
    for edges in space.incoming:
        law = np.where([[op == "none" for op in space.table[e]] for e in edges], 0, p[edges])
        law = law / law.sum()
        drawn = [(i, arch[e]) for i, e in enumerate(edges) if arch[e] >= 0]
        both = 0.0
        for (i, o), (j, q) in itertools.permutations(drawn):
            rest = law.copy()
            rest[i] = 0
            both += law[i, o] * rest[j, q] / rest.sum()
        total *= both
    return total


@ids
def test_log_prob_is_that_of_the_two_draws(space):
    p = space.joint(logits(space, 1))
    archs = space.sample(p, 20, np.random.default_rng(0))
    expected = [np.log(probability(space, p, a)) for a in archs]
    np.testing.assert_allclose(space.log_prob(p, archs), expected, rtol=1e-10)
    assert space.log_prob(p, archs[3]) == pytest.approx(expected[3])
    np.testing.assert_allclose(space.log_prob(7.0 * p, archs), expected, rtol=1e-10)


def test_the_law_of_a_node_sums_to_one():
    p, arch = S2.joint(logits(S2, 2, spread=3.0)), S2.sample(np.ones((28, 2)), 1, np.random.default_rng(0))[0]
    for edges in S2.incoming:
        options = []
        for pair in itertools.combinations(edges, 2):
            for ops in itertools.product(range(2), repeat=2):
                other = arch.copy()
                other[edges] = -1
                other[list(pair)] = ops
                options.append(other)
        logs = S2.log_prob(p, np.stack(options))
        mine = S2.log_prob(p, arch)
        share = np.exp(logs - mine)         # relative to the option that arch takes there
        rest = probability(S2, p, arch) / sum(probability(S2, p, o) for o in options)
        assert 1 / share.sum() == pytest.approx(rest)
    assert S2.log_prob(p, np.stack([arch, arch])).shape == (2,)


def test_joint_compares_edges_by_their_logits():
    alpha = logits(S0, 3)
    p = S0.joint(alpha + 700)               # exp would overflow
    node = S0.incoming[6]
    np.testing.assert_allclose(p[node], np.exp(alpha[node]) / np.exp(alpha[node]).sum())
    assert (S3.joint(np.zeros((28, 3)))[:, 0] == 0).all()


def test_samples_follow_the_law():
    """Chi-square over everything that node 1 of the normal cell can take, and over the others' first edge."""
    p, n = S0.joint(logits(S0, 4, spread=1.5)), 40_000
    archs = S0.sample(p, n, np.random.default_rng(1))
    edges = S0.incoming[1]
    options, expected = [], []
    for pair in itertools.combinations(range(3), 2):
        for ops in itertools.product(range(7), repeat=2):
            option = np.full(3, -1)
            option[list(pair)] = ops
            law = p[edges] / p[edges].sum()
            (i, o), (j, q) = zip(pair, ops, strict=True)
            mass = law.sum(-1)
            options.append(option)
            expected.append(law[i, o] * law[j, q] * (1 / (1 - mass[i]) + 1 / (1 - mass[j])))
    seen = np.array([(archs[:, edges] == option).all(-1).sum() for option in options])
    expected = n * np.array(expected)
    assert seen.sum() == n and expected.sum() == pytest.approx(n)
    chi = ((seen - expected)**2 / expected).sum()
    assert abs(chi - 146) < 5 * np.sqrt(2 * 146)                # 147 options
    taken = (archs >= 0)
    for edges in S0.incoming:
        assert (taken[:, edges].sum(1) == 2).all()


def test_what_has_no_weight_is_never_drawn():
    p = np.zeros((28, 3))
    p[:, 0], p[:, 2] = 5.0, 1.0             # none counts for nothing
    p[[2, 7], 2] = 0                        # two edges that cannot be taken
    archs = S3.sample(p, 300, np.random.default_rng(0))
    assert set(np.unique(archs)) == {-1, 2} and (archs[:, [2, 7]] == -1).all()
    assert np.isfinite(S3.log_prob(p, archs)).all()
    other = archs[0].copy()
    other[[2, 3, 4]] = [1, 1, -1]
    assert np.isneginf(S3.log_prob(p, other))


def test_the_same_generator_gives_the_same_samples():
    p = np.ones((28, 7))
    first, second = (S0.sample(p, 5, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.int8 and S0.sample(p, 0, np.random.default_rng(0)).shape == (0, 28)


@pytest.mark.parametrize("change, message", [
    ((slice(0, 2), -1.0), "negative"), ((slice(2, 4), 0.0), "node 3 has fewer than two edges"),
    ((5, np.inf), "finite")])
def test_weights_that_are_no_law(change, message):
    p = np.ones((28, 7))
    p[change[0]] = change[1]
    with pytest.raises(ValueError, match=message):
        S0.sample(p, 3, np.random.default_rng(0))


# --- text -----------------------------------------------------------------------------------------

@ids
def test_text_and_array_agree(space):
    for arch in space.sample(np.ones((28, len(space.ops))), 50, np.random.default_rng(0)):
        text = space.string(arch)
        np.testing.assert_array_equal(space.parse(text), arch)
        np.testing.assert_array_equal(space.parse(repr(space.genotype(arch))), arch)
        cells = space.genotype(arch)
        for cell in (cells.normal, cells.reduce):
            sources = [s for _, s in cell]
            assert all(a < b for a, b in zip(sources[::2], sources[1::2], strict=True))


def test_operations_that_a_space_lacks():
    with pytest.raises(ValueError, match="sep_conv_3x3 from state 0 to node 0 of the normal cell is not in s1: there it "
                                         "is skip_connect or dil_conv_3x3"):
        S1.parse("s0 k1 k1 k2 k1 k3 k1 k2 / m0 d1 m0 k2 k3 k2 k2 k4")
    with pytest.raises(ValueError, match="noise from state 4 to node 3 of the reduction cell is not in s0"):
        S0.parse("s0 s1 s0 s1 s0 s1 s0 s1 / s0 s1 s0 s1 s0 s1 s0 n4")


@pytest.mark.parametrize("edit, message", [
    (lambda a: a[:14], "has 28 edges"), (lambda a: np.where(a == 2, 3, a), "run from 0 to 2"),
    (lambda a: np.where(a == 2, 0, a), "an edge with none is not taken"),
    (lambda a: np.where(np.arange(28) == 0, -1, a), "every node takes two edges"),
    (lambda a: np.full(28, 1), "every node takes two edges")])
def test_an_array_that_is_no_architecture(edit, message):
    arch = S3.parse("s0 k1 s0 k1 s0 k1 s0 k1 / s0 k1 s0 k1 s0 k1 s0 k1")
    for use in (S3.string, lambda a: S3.log_prob(np.ones((28, 3)), a)):
        with pytest.raises(ValueError, match=message):
            use(edit(arch))


# --- what the stages ask of any space --------------------------------------------------------------

def torch_like(seed):
    rng = np.random.default_rng(seed)
    return lambda k: int(rng.integers(k))


def test_each_pair_of_edges_is_taken_equally_often():
    draw, n = torch_like(0), 4000
    taken = np.array([S2.taken(draw) for _ in range(n)])
    for edges in S2.incoming:
        pairs = list(itertools.combinations(edges, 2))
        counts = np.array([taken[:, pair].all(1).sum() for pair in map(list, pairs)])
        assert counts.sum() == n and (taken[:, edges].sum(1) == 2).all()
        p = 1 / len(pairs)
        assert (np.abs(counts - n * p) <= 5 * (n * p * (1 - p))**0.5).all()


def test_a_mutation_is_any_single_exchange():
    arch = S2.sample(np.ones((28, 2)), 1, np.random.default_rng(1))[0]
    rng, kept = np.random.default_rng(2), arch.copy()
    found = {S2.string(S2.mutated(arch, rng)) for _ in range(3000)}
    expected = set()
    for edges in S2.incoming:
        for old, new, op in itertools.product(edges, edges, range(2)):
            other = arch.copy()
            other[old] = -1
            if arch[old] >= 0 and other[new] < 0 and (old, op) != (new, arch[old]):
                other[new] = op
                expected.add(S2.string(other))
    assert found == expected and len(found) == 2 * 2 * (1 + 3 + 5 + 7)
    np.testing.assert_array_equal(arch, kept)


@ids
def test_architectures_go_by_their_text(space):
    law = space.joint(logits(space))
    with np.errstate(divide="ignore"):
        names = space.draw(np.log(law), 40, 7)
    archs = space.sample(law, 40, np.random.default_rng(7))
    np.testing.assert_array_equal(space.named(names), archs)
    assert [space.name_of(a) for a in archs] == names.tolist() and space.networks(names).tolist() == names.tolist()
    assert all(space.table[e][o] != "none" for e, row in enumerate(space.stay) for o in row)
    assert not space.enumerable and sum(space.cells, ()) == tuple(range(28))
    assert space.crowded(space.cells[1]) == [(16, 17, 18), (19, 20, 21, 22), (23, 24, 25, 26, 27)]
