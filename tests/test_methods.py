"""What every method must do, built-in or your own: ``pytest tests/test_methods.py --method mine.py``."""

import copy
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from nas_lib import methods, training
from nas_lib.methods import UnknownMethod
from nas_lib.sampling import draw
from nas_lib.selection import Choice, NotApplicable
from nas_lib.spaces import NB201, Space

DATA = tiny.data()
BUDGET = replace(tiny.BUDGET, channels=4)      # so that a quarter of the channels is one
DRAWS = 1500


def pytest_generate_tests(metafunc):
    """Parametrise over the folders of methods or, where ``--method`` gives some, over those files alone."""
    own = [str(Path(f).resolve()) for f in metafunc.config.getoption("--method", [])]
    holds = {f: "class Method" in Path(f).read_text() for f in own if Path(f).is_file()}
    for stage, files in (("stage1", [f for f in own if holds.get(f, True)]),
                         ("stage2", [f for f in own if not holds.get(f, True)])):
        if stage in metafunc.fixturenames:
            metafunc.parametrize(stage, files if own else methods.names(stage), ids=lambda n: Path(n).name)


def truth(space):
    return np.random.default_rng(0).permutation(len(space)).astype(float)


def start(method, space, seed=0):
    return method.init(space, torch.Generator().manual_seed(seed), truth(space) if method.informed else None)


def steeper(method, space):
    """A law as after training: where alpha are logits, spread ones."""
    alpha = start(method, space)
    if method.learns:
        alpha = torch.randn(alpha.shape, generator=torch.Generator().manual_seed(1)).to(alpha)
    return alpha


def test_a_stage_1_method_is_a_frozen_dataclass(stage1):
    method = methods.stage1(stage1)
    assert is_dataclass(method) and isinstance(method, training.Stage1)
    with pytest.raises(FrozenInstanceError):
        method.learns = None
    assert method == methods.stage1(stage1) or stage1.endswith(".py")
    assert set(method.paper) | set(method.options) <= {f.name for f in fields(method)}
    methods.stage1(stage1, **method.paper)


@pytest.mark.parametrize("space", [NB201, tiny.SPACE], ids=lambda s: s.name)
def test_the_law_is_a_law_over_all_architectures(stage1, space):
    method = methods.stage1(stage1)
    alpha = steeper(method, space)
    log_prob = method.log_prob(space, alpha)
    assert log_prob.shape == (len(space),) and log_prob.dtype == np.float64
    assert np.exp(log_prob).sum() == pytest.approx(1, abs=1e-6)
    probs = method.probs(space, alpha)
    if probs is not None:
        assert probs.shape == (len(space.edges), len(space.ops)) and (probs >= 0).all()
        torch.testing.assert_close(probs.sum(-1), torch.ones(len(space.edges)).to(probs))
        np.testing.assert_allclose(log_prob, space.log_prob(probs.double().numpy()), rtol=1e-6)


@pytest.mark.parametrize("space", [NB201, tiny.SPACE], ids=lambda s: s.name)
def test_what_is_mixed_fits_the_supernet(stage1, space):
    method = methods.stage1(stage1)
    if not method.trains:
        pytest.skip("trains no weights")
    alpha, edges, ops = steeper(method, space), len(space.edges), len(space.ops)
    for progress in (0.0, 0.3, 0.99):
        for mix in (method.mix, method.mix_weights):
            w = mix(space, alpha, progress, torch.Generator().manual_seed(3))
            again = mix(space, alpha, progress, torch.Generator().manual_seed(3))
            assert torch.equal(w, again), "only the generator may decide"
            if w.is_floating_point():
                passing = method.partial_at(progress) > 1 and w.shape[-1] == ops + 1
                assert w.shape == (edges, ops + passing) and w.isfinite().all() and (w >= 0).all()
                assert (w.sum(-1) > 0).all()
            else:
                assert w.shape[-1] == edges and w.ndim <= 1 + (mix == method.mix_weights)
                assert w.min() >= 0 and w.max() < ops


def test_samples_follow_the_law(stage1):
    """Frequencies of architectures in 1,500 draws, within five standard deviations; on 27 cells."""
    method = methods.stage1(stage1)
    if not method.trains:
        pytest.skip("trains no weights")
    space, generator = tiny.SPACE, torch.Generator().manual_seed(4)
    alpha = steeper(method, space)
    drawn = [method.mix(space, alpha, 0.7, generator) for _ in range(DRAWS)]
    if drawn[0].is_floating_point():
        if not all(((w.max(-1).values - 1).abs() <= 2**-22).all() for w in drawn):
            pytest.skip("mixes operations, samples none")
        assert all((w != 0).sum() == len(space.edges) for w in drawn)     # the others are exactly 0
        drawn = [w.argmax(-1) for w in drawn]
    found = np.bincount(space.index(torch.stack(drawn).numpy()), minlength=len(space)) / DRAWS
    p = np.exp(method.log_prob(space, alpha))
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS) + 1e-12).all()


def test_alpha_moves_to_the_better_operation(stage1):
    """Where the second of two operations costs and the first does not, a learner leaves the second."""
    method = methods.stage1(stage1)
    if not method.learns:
        pytest.skip("learns no alpha")
    space = Space("two", nodes=3, ops=("skip_connect", "none"))
    alpha, generator = start(method, space).requires_grad_(), torch.Generator().manual_seed(5)
    before = method.probs(space, alpha.detach())[:, 0].clone()
    adam = torch.optim.Adam([alpha], lr=0.05)

    def cost(w):
        return w[:, 1].sum() if w.is_floating_point() else (w == 1).sum().float()

    for step in range(60):
        loss = method.architecture_loss(space, alpha, step / 60, generator, cost)
        if loss is not None:
            loss.backward()
            adam.step()
            adam.zero_grad()
    assert (method.probs(space, alpha.detach())[:, 0] > before + 0.2).all()


def run(stage1, seed=0, folder=None):
    """A short training, as one dictionary of tensors and values."""
    method = methods.stage1(stage1)
    shown = truth(tiny.SPACE) if method.informed else None
    trained = training.train("own", method, tiny.SPACE, DATA, BUDGET, seed, shown, folder, progress=False)
    return trained, {"net": dict(trained.supernet.state_dict()), "alpha": trained.alpha, "probs": trained.probs,
                     "log_prob": torch.from_numpy(trained.log_prob),
                     "history": {k: torch.from_numpy(v) for k, v in trained.history.items()}}


def test_training_reaches_alpha_and_weights_and_the_seed_decides_all(stage1):
    method = methods.stage1(stage1)
    trained, state = run(stage1)
    assert (trained.alpha != start(method, tiny.SPACE)).any() == method.learns
    assert (trained.history["train_loss"].shape == (BUDGET.epochs,)) if method.trains else not trained.history
    torch.manual_seed(0)
    net = training.Supernet(tiny.SPACE, BUDGET.channels, BUDGET.cells, 3, 1)
    assert torch.equal(net.stem[0].weight, trained.supernet.stem[0].weight) != method.trains
    assert np.exp(trained.log_prob).sum() == pytest.approx(1, abs=1e-6)
    assert all(p.grad is None and p.requires_grad for p in trained.supernet.parameters())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tiny.same(state, run(stage1)[1])
    assert torch.equal(before, torch.get_rng_state()), "the global generator is not to be used"
    with pytest.raises(AssertionError):
        tiny.same(state, run(stage1, seed=1)[1])


def test_a_stopped_training_goes_on_to_the_same_bits(stage1, monkeypatch, tmp_path):
    if not methods.stage1(stage1).trains:
        pytest.skip("trains no weights")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 2)
        run(stage1, folder=tmp_path)
    tiny.same(run(stage1, folder=tmp_path)[1], run(stage1)[1])


@pytest.fixture(scope="module")
def trained():
    return training.train("darts", methods.stage1("darts"), tiny.SPACE, DATA, tiny.BUDGET, 0, progress=False)


def select(name, trained, seed=0, **options):
    candidates = draw(trained.log_prob, 12, seed=1)
    selector = methods.stage2(name, **options)
    shown = {"truth": truth(tiny.SPACE)} if selector.informed else {}
    return selector(trained, DATA, candidates, seed, **shown), candidates


def test_a_stage_2_method_chooses_an_architecture(stage2, trained):
    choice, candidates = select(stage2, trained)
    assert isinstance(choice, Choice) and 0 <= choice.arch < len(tiny.SPACE)
    assert type(choice.arch) is int and type(choice.ties) is int and choice.ties >= 1 and choice.seconds > 0
    if choice.scores is not None:
        assert choice.scores.shape == candidates.shape
        best = np.nanmax(choice.scores)
        assert choice.arch == candidates[np.flatnonzero(choice.scores == best)[0]]
        assert choice.ties == len(set(candidates[choice.scores == best]))


def test_a_choice_is_repeatable_and_leaves_no_trace(stage2, trained):
    before, candidates = copy.deepcopy(trained.supernet.state_dict()), draw(trained.log_prob, 12, seed=1)
    torch.manual_seed(1)
    state, kept = torch.get_rng_state(), candidates.copy()
    first, _ = select(stage2, trained)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    second, _ = select(stage2, trained)
    assert (first.arch, first.ties) == (second.arch, second.ties)
    if first.scores is not None:
        np.testing.assert_array_equal(first.scores, second.scores)
    tiny.same(dict(before), dict(trained.supernet.state_dict()))
    np.testing.assert_array_equal(candidates, kept)


def test_prune_takes_the_strongest_operation_of_every_edge(trained):
    known = copy.copy(trained)
    known.probs = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    assert tiny.SPACE.archs[select("prune", known)[0].arch].tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", ["none", "none+", "rsps", "rsps+"])
@pytest.mark.parametrize("space", [NB201, tiny.SPACE], ids=lambda s: s.name)
def test_prune_does_not_apply_where_nothing_was_learned(name, space):
    method = methods.stage1(name)
    probs = method.probs(space, start(method, space))
    idle = training.Trained(space, None, None, probs, np.zeros(len(space)))
    with pytest.raises(NotApplicable, match="this Stage 1 learns none"):
        methods.stage2("prune")(idle, DATA, np.arange(3), 0)


def test_valid_is_the_accuracy_with_statistics_of_its_own(trained):
    choice, candidates = select("valid", trained)
    net = copy.deepcopy(trained.supernet)
    (x, y), (calibration, _) = (DATA.fixed(p) for p in ("valid half", "train half"))
    for index, score in zip(candidates, choice.scores, strict=True):
        arch = tiny.chosen(tiny.SPACE.archs[index])
        with torch.no_grad():
            tiny.forget(net).train()(calibration, arch)
            assert score == pytest.approx(100 * (net.eval()(x, arch).argmax(1) == y).double().mean().item())


def test_the_built_in_methods():
    assert {"none", "none+", "rsps", "rsps+", "rsps2", "darts", "darts-", "gdas", "snas", "dirichlet", "blank", "blank-",
            "sdarts-rs", "pc-darts", "fairnas", "setn"} <= set(methods.names("stage1"))
    assert {"prune", "valid", "synflow", "jacob_cov"} <= set(methods.names("stage2"))
    assert methods.stage1("gdas", tau_min=0.5).tau_min == 0.5


@pytest.mark.parametrize("name", ["dart", "", "__init__", "nas_lib.stage1.darts", "rsps_plus", "pc_darts", "+"])
def test_an_unknown_name_says_what_there_is(name):
    for stage, make in (("stage1", methods.stage1), ("stage2", methods.stage2)):
        with pytest.raises(UnknownMethod) as error:
            make(name)
        assert all(known in str(error.value) for known in methods.names(stage))


def test_a_missing_file_is_named_in_full():
    with pytest.raises(UnknownMethod, match=r"no file /.*/nowhere.py; built-in stage1 methods: \['blank'"):
        methods.stage1("nowhere.py")


def test_an_unknown_parameter_says_which_there_are():
    with pytest.raises(UnknownMethod, match=r"gdas: .*tau.*; its parameters are \['tau_max', 'tau_min'\]"):
        methods.stage1("gdas", tau=3)


MINE = """
from dataclasses import dataclass
from nas_lib.training import Stage1

@dataclass(frozen=True)
class Method(Stage1):
    power: float = 2.0

    def mix(self, space, alpha, progress, generator):
        return (self.power * alpha).softmax(-1)
"""


@pytest.mark.parametrize("head", ["", "from __future__ import annotations\n"], ids=["plain", "future"])
def test_a_file_is_a_method(head, tmp_path):
    (tmp_path / "mine.py").write_text(head + MINE)
    method = methods.stage1(str(tmp_path / "mine.py"), power=3.0)
    assert method.power == 3.0 and method.mix(tiny.SPACE, torch.zeros(3, 3), 0, None).shape == (3, 3)


def test_a_file_is_a_selection(tmp_path, trained):
    (tmp_path / "last.py").write_text(
        "def score(trained, archs, data, seed):\n    return trained.space.index(archs)\n")
    choice, candidates = select(str(tmp_path / "last.py"), trained)
    assert choice.arch == candidates.max()


def test_a_file_without_a_method_says_what_is_missing(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UnknownMethod, match="defines no Method"):
        methods.stage1(str(tmp_path / "empty.py"))
    with pytest.raises(UnknownMethod, match="defines neither score nor select"):
        methods.stage2(str(tmp_path / "empty.py"))
