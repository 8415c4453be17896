"""What single Stage-2 methods select, against choices known beforehand."""

import copy
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from nas_lib import methods, training
from nas_lib.checkpoint import load
from nas_lib.methods import UnknownMethod
from nas_lib.protocol import CORRECTED
from nas_lib.spaces import NB201, S1, S2, Space
from nas_lib.stage2 import evolution, perturb, vote

DATA = tiny.data()


@pytest.fixture(scope="module")
def trained():
    budget = replace(tiny.BUDGET, epochs=12)
    return training.train("darts", methods.stage1("darts"), tiny.SPACE, DATA, budget, 0, progress=False)


def handed_over(net, alpha, probs, stage1="darts", lr=1e-12):
    """A supernet as Stage 1 hands it over; the tuning has steps too small to matter."""
    config = {"stage1": stage1, "budget": asdict(replace(tiny.BUDGET, lr=lr, alpha_lr=lr))}
    return training.Trained(net.space, net, alpha, probs, np.zeros(0), config=config)


# --- perturb -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed, order", [
    (1, (5, 3, 0, 1, 4, 2)), (2, (0, 1, 4, 5, 3, 2)), (3, (2, 0, 3, 1, 4, 5)),
    (10, (1, 5, 4, 0, 3, 2)), (11, (1, 0, 5, 3, 4, 2)), (12, (3, 4, 2, 1, 5, 0))])
def test_edges_are_projected_in_the_published_order(seed, order):
    assert perturb.schedule(NB201, 25, seed) == list(zip((0, 5, 10, 15, 20, 24), ((e,) for e in order), strict=True))
    assert [epoch for epoch, _ in perturb.schedule(NB201, 15, seed)] == [0, 3, 6, 9, 12, 14]
    assert [epoch for epoch, _ in perturb.schedule(NB201, 1, seed)] == [0] * 6
    assert perturb.schedule(Space("one", 2, NB201.ops), 4, seed) == [(0, (0,))]


@pytest.fixture(scope="module")
def planted():
    """A trained network of one edge, whose convolutions have become zeros: without them it is as good."""
    space = Space("one", 2, ("nor_conv_3x3", "none", "skip_connect"))
    budget = replace(tiny.BUDGET, epochs=40, lr=0.1)
    net = training.train("darts", methods.stage1("darts"), space, DATA, budget, 0, progress=False).supernet
    for cell in net.cells:
        for ops in getattr(cell, "edges", {}).values():
            torch.nn.init.zeros_(ops[0].op[1].weight)
    alpha = torch.tensor([[1.0, 0.0, 0.0]])                     # by its logit the useless operation is the best
    return handed_over(net, alpha, alpha.softmax(-1))


@pytest.mark.parametrize("crit", perturb.CRITERIA)
def test_useless_operations_are_removed(planted, crit):
    assert planted.space.archs[methods.stage2("prune")(planted, DATA, None, 0).arch].tolist() == [0]
    choice = methods.stage2("perturb", crit=crit)(planted, DATA, None, 0)
    assert planted.space.archs[choice.arch].tolist() == [2] and choice.ties == 1


def wrong_answers(net, w):
    """Wrong answers on the validation half by the definition of the mixture, batch after batch."""
    net, wrong = copy.deepcopy(net).train(), 0
    net.fuse = False
    x, y = DATA.fixed("valid half")
    for start in range(0, len(y), tiny.BUDGET.batch):
        rows = slice(start, start + tiny.BUDGET.batch)
        wrong += (net(x[rows], w).argmax(1) != y[rows]).sum().item()
    return wrong


def test_the_operation_whose_removal_hurts_most_stays(trained):
    """Without tuning: edge after edge, each with those before it projected; the first among equals."""
    still = handed_over(trained.supernet, trained.alpha, trained.probs)
    w = trained.alpha.softmax(-1)
    for _, (edge,) in perturb.schedule(tiny.SPACE, 1, seed=5):
        wrong = []
        for op in range(3):
            without = w.clone()
            without[edge, op] = 0
            wrong.append(wrong_answers(trained.supernet, without))
        w[edge] = F.one_hot(torch.tensor(wrong.index(max(wrong))), 3)
    assert len(set(wrong)) > 1
    choice = methods.stage2("perturb", epochs=1)(still, DATA, None, 5)
    assert tiny.SPACE.archs[choice.arch].tolist() == w.argmax(-1).tolist()


def test_the_published_order_on_pairs_of_cells():
    """81 epochs: fourteen times an edge of each cell, every fifth epoch, then three times a node of each."""
    steps = perturb.schedule(S1, 81, 10)
    assert [epoch for epoch, _ in steps] == [5 * (k // 2) for k in range(34)]
    rng, rest = np.random.RandomState(10), [list(range(14)), list(range(14, 28))]
    for k in range(28):
        edge = rng.choice(rest[k % 2], size=1)[0]
        rest[k % 2].remove(edge)
        assert steps[k][1] == (edge,)
    nodes = [[(2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12, 13)], [(16, 17, 18), (19, 20, 21, 22), (23, 24, 25, 26, 27)]]
    for k in range(28, 34):
        assert steps[k][1] == nodes[k % 2].pop(rng.choice(len(nodes[k % 2]), size=1)[0])


@pytest.mark.parametrize("blind", [False, True])
def test_edges_are_dropped_until_two_are_left(blind, monkeypatch):
    """Harms are given: 3, 1, 4, 1, 5; that of edge 9 falls with every edge that is known to be dropped."""
    kept, looks = torch.full((28,), -1), []

    def removals(run, places, criterion):
        looks.append(list(places))
        down = int((kept == perturb.DROPPED).sum())
        return [{9: 3, 10: 1, 11: 4, 12: 1, 13: 5}[e] - 4 * down * (e == 9) for e in places]

    monkeypatch.setattr(perturb, "removals", removals)
    run = SimpleNamespace(space=S1, method=SimpleNamespace(kept=kept))
    ties = perturb.project(run, (9, 10, 11, 12, 13), None, blind)
    assert ties == 2 and looks[0] == [9, 10, 11, 12, 13] and looks[1] == [9, 10, 11, 13]    # the last among equals
    assert looks[2] == ([9, 11, 13] if blind else [10, 11, 13])
    assert len(looks) == 3 and (kept[[11, 13]] == -1).all() and (kept[[9, 10, 12]] == perturb.DROPPED).all()


@pytest.fixture(scope="module")
def pair():
    budget = replace(tiny.BUDGET, cells=3)
    data = tiny.data(16)
    return training.train("darts-", methods.stage1("darts-"), S2, data, budget, 0, progress=False), data


def test_pairs_of_cells_are_perturbed_edge_by_edge_and_node_by_node(pair):
    """Without tuning, by the definition: what was decided stays, nothing is normalised, the auxiliary skip is gone."""
    (trained, data), seed = pair, 3
    still = handed_over(trained.supernet, trained.alpha, trained.probs)
    still.config["budget"]["cells"] = 3
    w, net = trained.alpha.softmax(-1), copy.deepcopy(trained.supernet).train()
    x, y = data.fixed("valid half")

    @torch.no_grad()
    def wrong(place):
        without = w.clone()
        without[place] = 0
        return sum((net(xb, without).argmax(1) != yb).sum().item()
                   for xb, yb in zip(x.split(tiny.BUDGET.batch), y.split(tiny.BUDGET.batch), strict=True))

    for _, edges in perturb.schedule(S2, 1, seed):
        if len(edges) == 1:
            harm = [wrong((edges[0], op)) for op in range(2)]
            w[edges[0]] = F.one_hot(torch.tensor(harm.index(max(harm))), 2)
        rest = list(edges)
        while len(rest) > 2:
            harm = {e: wrong(e) for e in rest}
            rest.remove([e for e in rest if harm[e] == min(harm.values())][-1])
            w[[e for e in edges if e not in rest]] = 0
    choice = methods.stage2("perturb", epochs=1)(still, data, None, seed)
    np.testing.assert_array_equal(S2.parse(choice.arch), S2.strongest(w))


def test_a_selection_on_pairs_of_cells_goes_on_where_it_was(pair, tmp_path, monkeypatch):
    trained, data = pair
    monkeypatch.setattr(perturb, "removals", lambda run, places, _: [                  # cheap, and of the state
        run.net.stem[0].weight[k].sum().item() for k in range(len(places))])
    whole = methods.stage2("perturb", folder=tmp_path / "whole", epochs=4)(trained, data, None, 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 2)
        methods.stage2("perturb", folder=tmp_path / "part", epochs=4)(trained, data, None, 0)
    again = methods.stage2("perturb", folder=tmp_path / "part", epochs=4)(trained, data, None, 0)
    assert (again.arch, again.ties) == (whole.arch, whole.ties)
    states = [load(tmp_path / part / "perturb.pt") for part in ("whole", "part")]
    for state in states:
        state.pop("spent")
    tiny.same(*states)
    assert (states[0]["kept"] == perturb.DROPPED).sum() == 12 and (states[0]["kept"] >= 0).sum() == 16


def tuned(trained, folder, **options):
    methods.stage2("perturb", folder=folder, epochs=2, **options)(trained, DATA, None, 0)
    return load(folder / "perturb.pt")


def test_tuning_trains_weights_and_alpha_at_constant_rates(trained, tmp_path):
    state = tuned(trained, tmp_path / "a")
    assert [g["lr"] for g in state["sgd"]["param_groups"]] == [tiny.BUDGET.lr / 10]
    assert (state["net"]["stem.0.weight"] != trained.supernet.stem[0].weight).any()
    moved = (state["alpha"] - trained.alpha).abs().max()
    assert 0 < moved <= 1.5 * tiny.BUDGET.alpha_lr * 8          # 2 epochs of 2 steps, Adam's are about alpha_lr
    assert torch.equal(tuned(trained, tmp_path / "b", freeze_alpha=True)["alpha"], trained.alpha)
    fixed = copy.copy(trained)
    fixed.config = trained.config | {"stage1": "blank-"}
    assert torch.equal(tuned(fixed, tmp_path / "c")["alpha"], trained.alpha)


@pytest.mark.parametrize("name", ["none", "none+", "rsps"])
def test_where_nothing_was_learned_alpha_starts_anew(trained, name, tmp_path):
    method = methods.stage1(name)
    alpha = method.init(tiny.SPACE, torch.Generator(), np.arange(27.0))
    probs = method.probs(tiny.SPACE, alpha)
    start = tuned(handed_over(trained.supernet, alpha, probs, name), tmp_path)["alpha"]
    assert start.shape == (3, 3) and 0 < start.abs().max() < 5e-3 and start.std() > 1e-4


def test_a_law_without_logits_is_perturbed_by_its_probabilities(trained, tmp_path):
    other = handed_over(trained.supernet, None, torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.6, 0.3, 0.1]]))
    assert torch.allclose(tuned(other, tmp_path)["alpha"].softmax(-1), other.probs, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_selection_goes_on_as_if_it_had_not_stopped(trained, tmp_path, monkeypatch, stop):
    whole = methods.stage2("perturb", folder=tmp_path / "whole")(trained, DATA, None, 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, stop)
        methods.stage2("perturb", folder=tmp_path / "part")(trained, DATA, None, 0)
    again = methods.stage2("perturb", folder=tmp_path / "part")(trained, DATA, None, 0)
    assert (again.arch, again.ties) == (whole.arch, whole.ties)
    states = [load(tmp_path / part / "perturb.pt") for part in ("whole", "part")]
    for state in states:
        state.pop("spent")
    tiny.same(*states)


def test_options_of_a_selection():
    with pytest.raises(UnknownMethod, match=r"perturb: unknown option crt; it has \['crit', 'epochs', 'freeze_alpha'"):
        methods.stage2("perturb", crt="loss")
    with pytest.raises(UnknownMethod, match=r"oracle: unknown option truth; it has \[\]"):
        methods.stage2("oracle", truth=np.zeros(3))
    with pytest.raises(ValueError, match="unknown criterion 'los': accuracy or loss"):
        methods.stage2("perturb", crit="los")(None, DATA, None, 0)


# --- the others ----------------------------------------------------------------------------------------------

ABSTRACT = SimpleNamespace(space=NB201, protocol=CORRECTED)


def test_the_oracle_takes_the_truly_best():
    truth = np.random.default_rng(0).permutation(len(NB201)).astype(float)
    candidates = np.array([5, 9, 123, 5744, 9])
    selector = methods.stage2("oracle")
    assert selector.informed and not methods.stage2("valid").informed and not methods.stage2("prune").informed
    assert selector(ABSTRACT, None, candidates, 0, truth=truth).arch == candidates[truth[candidates].argmax()]


def test_random_is_a_candidate_by_the_seed():
    candidates = np.arange(100, 200)
    picked = [methods.stage2("random")(ABSTRACT, None, candidates, seed).arch for seed in range(200)]
    assert set(picked) <= set(candidates.tolist()) and len(set(picked)) > 60


def test_evolution_climbs_and_scores_as_many_as_there_are_candidates(monkeypatch):
    """A fitness that counts convolutions 3x3, and in which the best of a hundred random cells has four or so."""
    scored = []

    def fitness(trained, archs, data, matrices):
        scored.extend(trained.space.index(archs).tolist())
        return (archs == 3).sum(1).astype(float)

    monkeypatch.setattr(evolution, "valid_accuracy", fitness)
    found, drawn = [], []
    for seed in range(5):
        scored.clear()
        candidates = np.random.default_rng(seed).integers(len(NB201), size=100)
        choice = methods.stage2("evolution")(ABSTRACT, None, candidates, seed)
        assert len(scored) == len(set(scored)) == 100 and set(scored[:20]) <= set(candidates[:20].tolist())
        found.append((NB201.archs[choice.arch] == 3).sum())
        drawn.append((NB201.archs[candidates] == 3).sum(1).max())
        assert found[-1] == max((NB201.archs[scored] == 3).sum(1))
    assert np.mean(found) >= np.mean(drawn) + 1


def test_vote_takes_the_best_mean_rank(monkeypatch):
    """Ranks 1, 2.5, 2.5, 4 and 4, 1, 2, 3 and, two without a score, 3, 1.5, 1.5, 4."""
    values = {"synflow": [1, 5, 5, 7], "jacob_cov": [9, -4, -3, 0.5], "naswot": [2, np.nan, np.nan, 3]}
    monkeypatch.setattr(vote, "measure", lambda *_: {k: np.array(v, dtype=float) for k, v in values.items()})
    np.testing.assert_allclose(vote.score(None, None, None, 0), [8 / 3, 5 / 3, 2, 11 / 3])
