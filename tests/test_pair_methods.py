"""Every method on the DARTS spaces: the same files and the same trainer as elsewhere, on pairs of cells."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from nas_lib import methods, proxies, training
from nas_lib.selection import Choice, NotApplicable
from nas_lib.spaces import NB201, S1, S2, S3, S4
from nas_lib.training import beside, uniform

DATA = tiny.data(16)
BUDGET = replace(tiny.BUDGET, channels=4, cells=3, epochs=2)
STAGE1 = [(n, {}) for n in methods.names("stage1") if not methods.stage1(n).informed] + [
    ("dirichlet", {"partial": 2, "progressive": True, "keep": 2}), ("setn", {"paths": 0})]
ids = pytest.mark.parametrize("name, hyper", STAGE1, ids=lambda v: v if isinstance(v, str) else "-".join(v))
DRAWS = 1500


def run(name, hyper=None, space=S3, seed=0, budget=BUDGET, data=DATA, **options):
    method = methods.stage1(name, **hyper or {})
    return training.train(name, method, space, data, budget, seed, progress=False, **options)


def state_of(trained):
    return {"net": dict(trained.supernet.state_dict()), "alpha": trained.alpha, "probs": trained.probs,
            "log_prob": torch.from_numpy(trained.log_prob),
            "history": {k: torch.from_numpy(v) for k, v in trained.history.items()}}


@ids
def test_a_training_is_whole_stopped_or_not(name, hyper, monkeypatch, tmp_path):
    method, before = methods.stage1(name, **hyper), torch.get_rng_state()
    trained = run(name, hyper)
    assert torch.equal(before, torch.get_rng_state()), "the global generator is not to be used"
    start = method.init(S3, torch.Generator().manual_seed(0), None)
    assert (trained.alpha != start).any() == method.learns
    assert trained.log_prob.shape == (28, 3) and np.isneginf(trained.log_prob[:, 0]).all()      # none is never drawn
    for edges in S3.incoming:
        assert np.exp(trained.log_prob[edges]).sum() == pytest.approx(1)
    assert S3.named(S3.draw(trained.log_prob, 3, 0)).shape == (3, 28)
    if not method.trains:
        return
    assert np.isfinite(trained.history["train_loss"]).all() and len(trained.history["train_loss"]) == BUDGET.epochs
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 1)
        run(name, hyper, folder=tmp_path)
    tiny.same(state_of(run(name, hyper, folder=tmp_path)), state_of(trained))


def test_noise_is_part_of_what_goes_on_and_looking_does_not_draw_it(monkeypatch, tmp_path):
    whole = run("darts", space=S4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 1)
        run("darts", space=S4, folder=tmp_path)
    tiny.same(state_of(run("darts", space=S4, folder=tmp_path)), state_of(whole))
    monkeypatch.setattr(training.Run, "_validate", lambda *_: 0.0)
    tiny.same(dict(run("darts", space=S4).supernet.state_dict()), dict(whole.supernet.state_dict()))


@pytest.mark.parametrize("name", ["rsps", "fairnas", "setn"])
def test_single_paths_are_architectures_that_follow_the_law(name):
    """Which operation on which edge, in 1,500 draws each, within five standard deviations."""
    method, generator = methods.stage1(name), torch.Generator().manual_seed(0)
    alpha = torch.zeros(28, 3)
    if method.learns:
        alpha = torch.randn(28, 3, generator=torch.Generator().manual_seed(1))
    drawn = torch.stack([method.mix(S3, alpha, 0.5, generator) for _ in range(DRAWS)]).numpy()
    expected = S3.sample(np.exp(method.log_prob(S3, alpha)), DRAWS, np.random.default_rng(0))
    S3.log_prob(np.ones((28, 3)), drawn)                        # raises for what is no architecture
    found, wanted = ((archs[:, :, None] == np.arange(3)).mean(0) for archs in (drawn, expected))
    p = (found + wanted) / 2
    assert (np.abs(found - wanted) <= 5 * np.sqrt(2 * p * (1 - p) / DRAWS)).all() and p[:, 1:].min() > 0.01


def test_strict_fairness_on_pairs_of_cells():
    w = methods.stage1("fairnas").mix_weights(S3, torch.zeros(28, 3), 0, torch.Generator().manual_seed(0))
    taken = w[0] >= 0
    assert w.shape == (2, 28) and ((w >= 0) == taken).all() and taken.sum() == 16       # without none: two operations
    assert (w[:, taken].sort(0).values.T == torch.tensor([1, 2])).all()


def test_the_gradient_of_setn_is_that_of_its_law():
    """Its log p differs from that of the law by what does not depend on alpha: which edges are taken."""
    method, paths = methods.stage1("setn", paths=2), []
    alpha = torch.randn(28, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()

    def loss(arch):
        paths.append(arch)
        return torch.tensor(float(len(paths)))                  # 1 and 2: the first is better than the mean by 1/2

    method.architecture_loss(S3, alpha, 0.0, torch.Generator().manual_seed(0), loss).backward()

    def log_p(at):
        return S3.log_prob(method.joint(S3, torch.from_numpy(at)), torch.stack(paths).numpy())

    for e, o in ((0, 1), (4, 2), (9, 0), (20, 2)):
        sides = []
        for step in (1e-6, -1e-6):
            at = alpha.detach().numpy().copy()
            at[e, o] += step
            sides.append(log_p(at))
        slope = (sides[0] - sides[1]) / 2e-6
        assert alpha.grad[e, o].item() == pytest.approx((slope[1] - slope[0]) / 2, abs=1e-8)


def test_uniform_architectures_of_the_cells_of_nas_bench_201_are_plain_numbers():
    drawn = uniform(NB201, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, torch.randint(5, (6,), generator=torch.Generator().manual_seed(3)))


def test_the_auxiliary_skip_has_weights_of_its_own_only_where_edges_halve_the_side():
    w = torch.rand(28, 2)
    assert torch.equal(beside(S1, w, 0.5), torch.cat([w, torch.full((28, 1), 0.5)], 1))
    assert torch.equal(beside(NB201, torch.zeros(6, 5), 0.5)[:, 1], torch.full((6,), 0.5))
    for name in ("darts-", "blank-"):
        trained = run(name, space=S1)
        moved = {k: v for k, v in trained.supernet.state_dict().items() if "aux_skip" in k and "weight" in k}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            start = training.PairSupernet(S1, 4, 3, 3, 1, auxiliary=True).state_dict()
        assert moved and all((v != start[k]).any() for k, v in moved.items())


def test_edges_that_compete_are_kept_by_their_share():
    trained = run("pc-darts", {"partial": 1})
    for edges in S3.incoming:
        assert trained.probs[edges].sum().item() == pytest.approx(1, abs=1e-6)
    method, alpha = methods.stage1("pc-darts"), torch.zeros(28, 4)
    alpha[[2, 4], -1], alpha[3, 2] = 1.0, 0.5               # edge 3 has the clearest operation, but not the share
    assert np.flatnonzero(S3.strongest(method.probs(S3, alpha))[2:5] >= 0).tolist() == [0, 2]


def test_a_drawn_edge_of_a_dirichlet_law_goes_by_its_concentrations():
    alpha = torch.randn(28, 2, generator=torch.Generator().manual_seed(0))
    c = torch.where(alpha > 0, alpha + 1, alpha.exp()).double().numpy()
    law = np.exp(methods.stage1("dirichlet").log_prob(S2, alpha))
    for edges in S2.incoming:
        np.testing.assert_allclose(law[edges], c[edges] / c[edges].sum(), rtol=1e-6)
    published = methods.stage1("dirichlet", law="softmax").log_prob(S2, alpha)
    np.testing.assert_allclose(np.exp(published), S2.joint(alpha.numpy()), rtol=1e-6)


def test_operations_see_a_part_of_the_channels_if_the_budget_says_so():
    halves = replace(BUDGET, epochs=1, partial=2)
    assert run("darts", budget=halves).supernet.partial == 2
    assert run("pc-darts", {"partial": 2}, budget=halves).supernet.partial == 4
    names = [training.configuration("darts", methods.stage1("darts"), S3, DATA, b, 0)["budget"] for b in (BUDGET, halves)]
    assert "partial" not in names[0] and names[1]["partial"] == 2


# --- Stage 2 --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def trained():
    return run("darts-", space=S4)


def select(name, trained, **options):
    candidates = trained.space.draw(trained.log_prob, 4, 1)
    return methods.stage2(name, **options)(trained, DATA, candidates, 0), candidates


CHOOSE = [(n, {"epochs": 1} if n == "perturb" else {}) for n in methods.names("stage2") if not methods.stage2(n).informed]


@pytest.mark.parametrize("name, options", CHOOSE, ids=lambda v: v if isinstance(v, str) else "")
def test_a_stage_2_method_chooses_a_text(name, options, trained):
    before = copy.deepcopy(trained.supernet.state_dict())
    choice, candidates = select(name, trained, **options)
    assert isinstance(choice, Choice) and type(choice.arch) is str and type(choice.ties) is int and choice.ties >= 1
    assert trained.space.name_of(trained.space.parse(choice.arch)) == choice.arch
    if choice.scores is not None:
        assert choice.arch == candidates[np.nanargmax(choice.scores)] and choice.scores.shape == (4,)
    if name in ("valid", "synflow", "jacob_cov", "zen", "evolution", "random"):
        again, _ = select(name, trained, **options)
        assert again.arch == choice.arch
        np.testing.assert_array_equal(again.scores, choice.scores)
    tiny.same(dict(before), dict(trained.supernet.state_dict()))


def test_prune_takes_two_edges_per_node(trained):
    probs = torch.rand(28, 2, generator=torch.Generator().manual_seed(0))
    known = copy.copy(trained)
    known.probs = probs / probs.sum(-1, keepdim=True)
    np.testing.assert_array_equal(S4.parse(select("prune", known)[0].arch), S4.prune(known.probs.log().numpy()))
    idle = run("none", space=S4)
    with pytest.raises(NotApplicable, match="learns none"):
        select("prune", idle)


def test_one_text_is_scored_once(trained):
    scored = []

    def score(trained, archs, data, seed):
        scored.extend(map(trained.space.string, archs))
        return (archs == 0).sum(1)

    candidates = trained.space.draw(trained.log_prob, 3, 1)[[2, 0, 1, 0, 2]]
    choice = methods.best_of(score)(trained, DATA, candidates, 0)
    assert sorted(scored) == sorted(set(candidates)) and choice.scores[0] == choice.scores[4]


def test_valid_is_the_accuracy_with_statistics_of_its_own(trained):
    choice, candidates = select("valid", trained)
    (x, y), (calibration, _) = (DATA.fixed(p) for p in ("valid half", "train half"))
    for name, score in zip(candidates, choice.scores, strict=True):
        net, arch = copy.deepcopy(trained.supernet), tiny.chosen(S4.parse(name))
        proxies.draw_from(net, torch.Generator().manual_seed(0))
        with torch.no_grad():
            tiny.forget(net).train()(calibration, arch)
            assert score == pytest.approx(100 * (net.eval()(x, arch).argmax(1) == y).double().mean().item())
