"""What sets each Stage-1 method apart, against its equation."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import tiny
from nas_lib import checkpoint, methods, training
from nas_lib.spaces import NB201

DATA = tiny.data()
BUDGET = dataclasses.replace(tiny.BUDGET, channels=4, epochs=4)
TRUTH = np.random.default_rng(0).permutation(27).astype(float)
LOGITS = torch.tensor([[0.0, 1.0, -1.0, 0.5], [2.0, 0.0, 0.0, -2.0]])


def run(name, folder=None, protocol=training.CORRECTED, **hyper):
    return training.train(name, methods.stage1(name, **hyper), tiny.SPACE, DATA, BUDGET, 0, TRUTH, folder,
                          progress=False, protocol=protocol)


def samples(method, alpha, n=20_000, progress=1.0):
    """``n`` draws of the mixture, ``[n, edge, op]``: a method treats every row of alpha alike and apart."""
    many = alpha.repeat(n, 1)
    return method.mix(NB201, many, progress, torch.Generator().manual_seed(0)).view(n, *alpha.shape)


@pytest.mark.parametrize("name", ["snas", "gdas"])
def test_samples_of_low_temperature_have_the_mean_of_the_law(name):
    p, n = LOGITS.softmax(-1), 20_000
    w = samples(methods.stage1(name, tau_min=0.01), LOGITS, n)
    assert ((w.mean(0) - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 2e-3).all()     # 5 standard errors, and the bias


def test_snas_is_warm_at_first():
    w = samples(methods.stage1("snas"), LOGITS, 1000, progress=0.0)
    torch.testing.assert_close(w.sum(-1), torch.ones(1000, 2))
    assert w.max() < 0.75 and (w > 0).all()


def test_gradients_of_snas_reach_every_logit_through_the_sample():
    alpha = LOGITS.clone().requires_grad_()
    methods.stage1("snas").mix(NB201, alpha, 0.5, torch.Generator().manual_seed(0))[:, 0].sum().backward()
    assert (alpha.grad != 0).all()


def test_dirichlet_samples_have_the_moments_of_the_law():
    c, n = torch.nn.functional.elu(LOGITS) + 1, 20_000
    total = c.sum(-1, keepdim=True)
    w = samples(methods.stage1("dirichlet"), LOGITS, n)
    mean = c / total
    var = mean * (1 - mean) / (total + 1)
    assert ((w.mean(0) - mean).abs() <= 5 * (var / n).sqrt()).all()
    torch.testing.assert_close(w.var(0), var, rtol=0.06, atol=0)
    torch.testing.assert_close(methods.stage1("dirichlet").probs(NB201, LOGITS), mean)
    torch.testing.assert_close(methods.stage1("dirichlet", law="softmax").probs(NB201, LOGITS), LOGITS.softmax(-1))


def test_the_gradient_through_dirichlet_samples_is_that_of_the_mean():
    alpha = LOGITS.clone().requires_grad_()
    mean = methods.stage1("dirichlet").probs(NB201, alpha)[:, 0].sum()
    exact, = torch.autograd.grad(mean, alpha)
    many = alpha.detach().repeat(20_000, 1).requires_grad_()
    w = methods.stage1("dirichlet").mix(NB201, many, 0, torch.Generator().manual_seed(0))
    found = torch.autograd.grad(w[:, 0].sum(), many)[0].view(20_000, *alpha.shape)
    assert ((found.mean(0) - exact).abs() <= 5 * found.std(0) / 20_000**0.5).all()


def test_the_kl_penalty_is_the_divergence_from_the_flat_law():
    from torch.distributions import Dirichlet, kl_divergence
    c = torch.nn.functional.elu(LOGITS) + 1
    expected = 0.5 * kl_divergence(Dirichlet(c), Dirichlet(torch.ones_like(c))).sum()
    method = methods.stage1("dirichlet", reg="kl", kl_weight=0.5)
    torch.testing.assert_close(method.penalty(LOGITS), expected)
    removed = torch.cat([LOGITS, torch.full((2, 1), -1e9)], -1)
    torch.testing.assert_close(method.penalty(removed), expected)
    assert not method.decays and methods.stage1("dirichlet").decays


def test_progressive_dirichlet_widens_removes_and_rests(monkeypatch, tmp_path):
    hyper = {"partial": 4, "progressive": True, "keep": 2}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 2)
        run("dirichlet", tmp_path, **hyper)
    half = checkpoint.load(tmp_path / "state.pt")
    trained, whole = run("dirichlet", tmp_path, **hyper), run("dirichlet", **hyper)
    tiny.same(dict(trained.supernet.state_dict()), dict(whole.supernet.state_dict()))
    tiny.same(trained.alpha, whole.alpha)
    assert half["partial"] == 4 and half["net"]["cells.0.edges.1<-0.2.op.1.weight"].shape == (1, 1, 3, 3)
    assert trained.supernet.partial == 2
    assert trained.supernet.state_dict()["cells.0.edges.1<-0.2.op.1.weight"].shape == (2, 2, 3, 3)
    weakest = half["alpha"].argmin(-1, keepdim=True)
    assert (trained.probs.gather(-1, weakest) == 0).all() and ((trained.probs > 0).sum(-1) == 2).all()
    assert np.isneginf(trained.log_prob).sum() == 27 - 8 and np.exp(trained.log_prob).sum() == pytest.approx(1)
    history = whole.history["probs_history"]
    start = methods.stage1("dirichlet").init(tiny.SPACE, torch.Generator().manual_seed(0), None)
    np.testing.assert_allclose(history[0], methods.stage1("dirichlet").probs(tiny.SPACE, start))    # alpha rests
    assert (history[1] != history[0]).all() and (history[3] != history[2]).any()


@pytest.mark.parametrize("name, beta, epochs, expected", [
    ("darts-", "linear", 4, {0: 1, 1: 0.75, 3: 0.25}), ("darts-", "constant", 4, {0: 1, 3: 1}),
    ("darts-", "ahead", 50, {0: 49 / 50, 20: 29 / 50, 49: 0}),
    ("darts-", "late", 100, {0: 1, 49: 1, 50: 49 / 50, 75: 24 / 50, 99: 0}),
    ("blank-", "linear", 4, {1: 0.75}), ("blank-", "constant", 4, {3: 1}),
    ("blank-", "late", 100, {49: 1, 50: 49 / 50, 99: 0})])
def test_the_auxiliary_skip_fades_as_published(name, beta, epochs, expected):
    method, alpha = methods.stage1(name, beta=beta), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    for epoch, value in expected.items():
        rest = method.mix(NB201, alpha, epoch / epochs, None) - alpha.softmax(-1)
        torch.testing.assert_close(rest, torch.tensor([0.0, value, 0, 0, 0]).expand(6, 5), atol=1e-6, rtol=0)


def test_sdarts_perturbs_the_weight_step_alone():
    method, alpha = methods.stage1("sdarts-rs"), 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    p = alpha.softmax(-1)
    torch.testing.assert_close(method.mix(NB201, alpha, 0.5, None), p)
    w = method.mix_weights(NB201, alpha, 0.5, torch.Generator().manual_seed(2))
    u = torch.empty(6, 5).uniform_(-0.165, 0.165, generator=torch.Generator().manual_seed(2))
    clipped = (p + u).clamp(0, 1)
    torch.testing.assert_close(w, clipped / clipped.sum(-1, keepdim=True))
    assert (clipped == 0).any()


def test_sdarts_keeps_the_strongest_operation_where_noise_clips_all():
    space = dataclasses.replace(NB201, ops=NB201.ops[:2])
    alpha = torch.tensor([[0.1, 0.0]]).expand(6, 2)
    method = methods.stage1("sdarts-rs", eps_min=50.0, eps_max=50.0)
    rows = torch.cat([method.mix_weights(space, alpha, 0, torch.Generator().manual_seed(s)) for s in range(20)])
    torch.testing.assert_close(rows.sum(-1), torch.ones(120))
    noise = torch.cat([torch.empty(6, 2).uniform_(-50, 50, generator=torch.Generator().manual_seed(s))
                       for s in range(20)])
    clipped = (noise < -1).all(-1)
    assert clipped.sum() > 10 and torch.equal(rows[clipped], torch.tensor([[1.0, 0.0]]).expand(clipped.sum(), 2))


def test_edges_of_pc_darts_compete_for_their_node():
    method = methods.stage1("pc-darts")
    alpha = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    w = method.mix(NB201, alpha, 0, None)
    b = torch.cat([alpha[rows, 5].softmax(0) for rows in (slice(0, 1), slice(1, 3), slice(3, 6))])
    torch.testing.assert_close(w, torch.cat([b[:, None] * alpha[:, :5].softmax(-1), b[:, None]], 1))
    torch.testing.assert_close(methods.stage1("pc-darts", partial=1).mix(NB201, alpha, 0, None), w[:, :5])
    trained = run("pc-darts")
    rested = trained.history["probs_history"]
    np.testing.assert_array_equal(rested[0], rested[1])         # 0 and 1/4 of the training: before 15/50
    assert (rested[2] != rested[1]).all() and trained.supernet.partial == 4
    assert (trained.alpha[1:, 3] != method.init(tiny.SPACE, torch.Generator().manual_seed(0), None)[1:, 3]).all()


def test_fairnas_uses_every_operation_once_per_step():
    method = methods.stage1("fairnas")
    alpha, generator = torch.zeros(6, 5), torch.Generator().manual_seed(0)
    drawn = torch.stack([method.mix_weights(NB201, alpha, 0, generator) for _ in range(1000)])   # step, pass, edge
    assert drawn.shape == (1000, 5, 6) and (drawn.sort(1).values == torch.arange(5)[None, :, None]).all()
    share = torch.nn.functional.one_hot(drawn, 5).float().mean(0)                       # pass, edge, op
    assert ((share - 0.2).abs() < 5 * (0.16 / 1000) ** 0.5).all()
    assert (drawn[:, :, 0] != drawn[:, :, 1]).any()             # edges are permuted independently


def test_one_step_of_fairnas_adds_the_gradients_of_its_passes():
    step = training.Run(methods.stage1("fairnas"), tiny.SPACE, DATA, BUDGET, 0, None)
    x, y = (t[:8] for t in step.train_half)
    twin, w = copy.deepcopy(step.net), step.method.mix_weights(
        tiny.SPACE, step.alpha, 0.0, torch.Generator().set_state(step.choices.get_state()))
    inputs = DATA.augment(x, torch.Generator().manual_seed(0))
    losses = torch.stack([torch.nn.functional.cross_entropy(twin(inputs, arch), y) for arch in w])
    losses.sum().backward()
    loss, _ = step.weight_step(x, y, 0.0)
    torch.testing.assert_close(loss, losses.mean())
    norm = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()
    for p, q in zip(step.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad * min(1, BUDGET.clip / norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("paths", [2, 5])
def test_the_evaluator_of_setn_follows_the_expected_loss(paths):
    """Its gradient over 1,500 draws, within five standard errors of the exact one, on 27 architectures."""
    method, space, losses = methods.stage1("setn", paths=paths), tiny.SPACE, torch.from_numpy(TRUTH / 10)
    alpha = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    p = torch.stack([alpha.softmax(-1)[e, space.archs[:, e].astype("int64")] for e in range(3)]).prod(0)
    exact, = torch.autograd.grad((p * losses).sum(), alpha)
    generator, found = torch.Generator().manual_seed(0), []
    table = losses[torch.as_tensor(space.index(np.indices((3, 3, 3)).reshape(3, -1).T))].view(3, 3, 3)
    for _ in range(1500):
        value = method.architecture_loss(space, alpha, 0.0, generator, lambda w: table[tuple(w)])
        found.append(torch.autograd.grad(value, alpha)[0])
    found = torch.stack(found)
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / 1500**0.5).all()


def test_without_paths_setn_descends_the_loss_of_the_mixture():
    method, alpha = methods.stage1("setn", paths=0), LOGITS.clone()
    seen = []
    method.architecture_loss(NB201, alpha, 0.0, None, lambda w: seen.append(w) or w.sum())
    torch.testing.assert_close(seen, [alpha.softmax(-1)])
    with pytest.raises(ValueError, match="paths = 1: 0, or at least 2"):
        methods.stage1("setn", paths=1)


def test_rsps2_has_the_weights_of_rsps_plus_and_a_uniform_law():
    biased, uniform = run("rsps+"), run("rsps2")
    tiny.same(dict(biased.supernet.state_dict()), dict(uniform.supernet.state_dict()))
    np.testing.assert_allclose(np.exp(uniform.log_prob), 1 / 27)
    assert np.isneginf(biased.log_prob).sum() == 1              # the worst has rank 0


@pytest.mark.parametrize("name", ["none+", "rsps+", "rsps2"])
def test_the_ideal_samplers(name):
    from nas_lib.sampling import rank_law, threshold_law
    for sampler, law in (("rank", rank_law), ("threshold", threshold_law)):
        alpha = methods.stage1(name, sampler=sampler).init(tiny.SPACE, None, TRUTH)
        np.testing.assert_allclose(alpha.numpy(), law(TRUTH))


@pytest.mark.parametrize("name", ["blank", "blank-"])
def test_alpha_stays_where_it_is_fixed(name):
    start = methods.stage1(name).init(tiny.SPACE, torch.Generator().manual_seed(0), None)
    for protocol in (training.CORRECTED, dataclasses.replace(training.CORRECTED, clip_alpha=True)):
        assert torch.equal(run(name, protocol=protocol).alpha, start)


@pytest.mark.parametrize("name, wrong", [("dirichlet", {"reg": "l1"}), ("dirichlet", {"law": "mode"}),
                                         ("darts-", {"beta": "cosine"}), ("rsps+", {"sampler": "best"})])
def test_a_word_that_is_no_option_says_which_there_are(name, wrong):
    (key, value), = wrong.items()
    with pytest.raises(ValueError, match=f"{key} = '{value}': it can be "):
        methods.stage1(name, **wrong)
