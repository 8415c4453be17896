"""The audit of single defects: each flag that is shown makes the difference that it is said to make."""

import ast
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import xarray as xr
import yaml

import tiny
from nas_lib import audit, methods, paper_figures
from nas_lib.protocol import CORRECTED
from nas_lib.ranking import rank
from nas_lib.results import ResultError, root
from nas_lib.selection import measure
from nas_lib.training import train
from test_workflow import CAMPAIGNS, dry

DATA = tiny.data()
BUDGET = replace(tiny.BUDGET, clip=0.2)     # so low that every step is clipped
SAMPLE = np.arange(len(tiny.SPACE))
TRUTH = xr.DataArray(np.random.default_rng(0).uniform(10, 90, len(SAMPLE)), dims="arch",
                     coords={"arch": tiny.SPACE.strings})


@pytest.fixture(scope="module")
def net():
    """Makes trained supernets, each once."""
    made = {}

    def trained(name, flag=None, **hyper):
        key = name, flag, *hyper.values()
        rules = replace(CORRECTED, **{flag: True} if flag else {})
        made[key] = made.get(key) or train(name, methods.stage1(name, **hyper), tiny.SPACE, DATA, BUDGET, 0,
                                           progress=False, protocol=rules)
        return made[key]
    return trained


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(audit, "IMAGES", 16)
    monkeypatch.setattr(audit, "CANDIDATES", 12)
    monkeypatch.setattr(audit, "PROXIES", ("jacob_cov", "synflow", "grad_norm"))


def test_statistics_of_the_mixture_change_the_scores(net):
    found = audit.statistics({"rsps": net("rsps"), "darts": net("darts")}, DATA, SAMPLE)
    assert found.dims == ("stage1", "bn", "arch")
    assert (found.sel(bn="batch") != found.sel(bn="running")).any("arch").all()
    plain = rank(net("darts").supernet, *DATA.fixed("valid half", first=16), "batch", progress=False).score
    np.testing.assert_allclose(found.sel(stage1="darts", bn="batch"), plain, atol=1e-4)


def test_every_flag_changes_the_ranking(net):
    nets = {name: net(name) for name in ("rsps", "darts", "darts-", "gdas")}
    variants = {flag: net(name, flag) for flag, name in audit.TRAINED.items()}
    found = audit.flags(nets, variants, DATA, SAMPLE, TRUTH)
    assert set(found.flag.values) == set(audit.EVALUATED) | set(audit.TRAINED)
    coarse = found.drop_sel(flag="clip_alpha")              # whose change is too fine for accuracies of 16 images
    assert (coarse.sel(flagged="off") != coarse.sel(flagged="on")).all()
    both = zip(nets["darts"].supernet.parameters(), variants["clip_alpha"].supernet.parameters(), strict=True)
    assert any((a != b).any() for a, b in both)
    alike = audit.flags(nets, {f: nets[n] for f, n in audit.TRAINED.items()}, DATA, SAMPLE, TRUTH).sel(flag=list(audit.TRAINED))
    assert (alike.sel(flagged="off") == alike.sel(flagged="on")).all()


def test_the_first_candidate_alone_in_train_mode(net):
    trained = net("rsps")
    found = audit.first(trained, DATA)
    assert (found.sel(mode="train mode") == 0.5).all()
    assert found.sel(proxy="jacob_cov", mode="first alone") != 0.5 and found.sel(proxy="synflow", mode="first alone") == 0.5
    asked = replace(trained, protocol=replace(CORRECTED, proxy_mode="first"))
    drawn = trained.space.archs[audit._candidates(trained)]
    x, y = (part[:64] for part in DATA.fixed("train half"))
    modes = [audit.scores(trained.supernet, drawn, x, y, ["grad_norm"], training=m)["grad_norm"] for m in (True, False)]
    np.testing.assert_allclose(measure(asked, drawn, DATA, 0, ["grad_norm"])["grad_norm"], [modes[0][0], *modes[1][1:]])


def test_how_many_are_beaten():
    one, others = np.array([1.0, 5.0, np.nan]), np.array([1.0, 2.0, 0.0])
    assert audit._beaten(one, others) == pytest.approx((0 + 1 + 1 + 1 + 0.5 + 0.5) / 6)


def test_scores_repeat_on_one_batch_only(net):
    found = audit.repeated(net("rsps"), DATA)
    assert found.sel(batch="fixed").values == pytest.approx(1)
    assert found.sel(proxy="synflow", batch="fresh") == pytest.approx(1)
    assert found.sel(proxy="grad_norm", batch="fresh") < 0.999


def test_a_skip_that_faded_is_not_missed(net):
    """With beta constant the mixture without it is another function; with beta 0 at the end it is the same."""
    betas = {beta: net("darts-", beta=beta) for beta in ("linear", "constant")}
    w = {name: [] for name in betas}
    for name, trained in betas.items():
        seen = trained.supernet.register_forward_pre_hook(lambda m, inputs, name=name: w[name].append(inputs[1]))
        found = audit.auxiliary({name: trained}, DATA)
        seen.remove()
        assert found.dims == ("beta", "branch") and found.notnull().all()
    skip = tiny.SPACE.ops.index("skip_connect")
    gap = {name: (a - b)[:, skip].max().item() for name, (a, b) in w.items()}
    assert gap == pytest.approx({"linear": 1 / BUDGET.epochs, "constant": 1})


def test_two_laws_of_one_alpha(net):
    found = audit.laws(net("dirichlet"), TRUTH)
    assert found.law_entropy.sel(law="mean") != found.law_entropy.sel(law="softmax")
    assert ((TRUTH.min() < found.law_expected) & (found.law_expected < TRUTH.max())).all()


def test_shared_numbers_make_equal_laws_draw_alike(net):
    nets = {"darts": net("darts"), "snas": net("snas"), "gdas": net("gdas")}
    nets = {name: replace(trained, probs=nets["darts"].probs) for name, trained in nets.items()}
    found = audit.common(nets)
    assert found.sizes == {"pair": 3, "draw": 2}
    assert (found.sel(draw="shared") == len(tiny.SPACE.edges)).all() and (found.sel(draw="own") < 2.5).all()
    drawn = np.concatenate([audit._by_edge(replace(nets["darts"], seed=s), True) for s in range(200)])
    counts = np.stack([(drawn == op).mean(0) for op in range(len(tiny.SPACE.ops))], 1)
    np.testing.assert_allclose(counts, nets["darts"].probs, atol=0.05)


def test_perturb_selects_a_cell_either_way(net):
    found = audit.tuned({"rsps": net("rsps"), "darts": net("darts")}, DATA, TRUTH)
    assert found.sizes == {"supernet": 2, "alpha": 2} and np.isin(found, TRUTH).all()


def test_ideal_laws_by_hand():
    found = audit.ideal(xr.DataArray([50.0, 60.0, 70.0, 70.5], dims="arch"))
    assert found.loc["uniform"].tolist() == [62.625, 50, 4]
    assert found.loc["rank"].tolist() == pytest.approx([(60 + 2 * 70 + 3 * 70.5) / 6, 500 / 6, 3])
    assert found.loc["threshold"].tolist() == pytest.approx([(70.5 * 0.01 + 70 * 0.001) / 0.011, 100, 2])


def test_figure_of_two_ways():
    kept = audit.load("audit", "digits").auxiliary
    spec = paper_figures.two_ways(kept, "accuracy (%)", "Dropped?").to_dict()
    means, = (v for v in spec["datasets"].values() if "std" in v[0])
    assert {(m["beta"], m["branch"], m["n"]) for m in means} == {
        (b, w, kept.sizes["seed"]) for b in ("linear", "constant") for w in ("as trained", "without")}
    assert "beta" in spec["description"] and f"n = {kept.sizes['seed']} seeds" in spec["title"]["subtitle"][0]


def test_evidence_that_is_not_there():
    with pytest.raises(ResultError, match="run notebooks/campaigns/audit.yaml"):
        audit.load("audit", "nowhere")


def test_the_campaign_runs_the_notebook_as_it_is(tmp_path):
    said = yaml.safe_load((CAMPAIGNS / "audit.yaml").read_text())
    runs = len(said["audit"])
    jobs = dry("--configfile", "notebooks/campaigns/audit.yaml", tmp_path=tmp_path)
    assert jobs == {"audit": runs, "all": 1, "total": runs + 1}
    cells = nbformat.read(root() / "notebooks/audit.ipynb", 4).cells
    source = next(c.source for c in cells if c.metadata.get("tags") == ["parameters"])
    default = {n.target.id: ast.literal_eval(n.value) for n in ast.parse(source).body}
    assert {k: default[k] for k in said["parameters"]} == said["parameters"]
    kept = audit.load("audit", "digits")
    assert kept.seed.values.tolist() == said["audit"] and f"{default['epochs']} epochs" in kept.scale
