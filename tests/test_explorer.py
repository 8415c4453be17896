"""The explorer: what is packed comes out again, and the charts answer a mouse and what is picked as Python would."""

import json
import types

import numpy as np
import pytest
import xarray as xr

from browser import Browser, needs_browser
from nas_lib import bookext, charts, evaluate, explorer, explorer_data
from nas_lib.spaces import NB201

CHART = "document.querySelectorAll('.nas-chart')[{}]"
# All data behind the marks of a chart, as the browser drew it.
ITEMS = """(() => {
  const found = [], chart = CHART;
  const walk = (item) => { if (item.items) item.items.forEach(walk); else if (item.datum) found.push(item.datum); };
  walk(chart.view.scenegraph().root);
  return found.filter((d) => d.FIELD !== undefined).map((d) => [d.KEYS]);
})()"""


@pytest.fixture(scope="module")
def truth(bench):
    return bench.test.mean("train_seed").clip(0, 99.9)


@pytest.fixture(scope="module")
def stage1(runs):
    """Scored runs of two data sets, whose laws sharpen over the training."""
    rng = np.random.default_rng(4)
    steps = np.linspace(0, 1, runs.sizes["epoch"])[:, None]
    course = 0.2 + steps[..., None] * (rng.dirichlet(np.ones(5), (6, 3, 1, 6)) - 0.2)
    one = runs.assign(probs_history=(("stage1", "seed", "epoch", "edge", "op"), course))
    one["probs"] = one.probs.where(one.stage1 != "rsps+")
    one = one.sel(stage1=["rsps", "rsps+", "darts", "gdas"])
    return {"digits": one, "letters": one.sel(seed=[2]).assign(score=100 - one.score.sel(seed=[2]))}


def test_what_is_packed_can_be_read(truth):
    text = explorer_data.packed(truth, 0.01, 3)
    for number in (0, 1, 777, 15624):
        digits = [number // 5 ** (5 - e) % 5 for e in range(6)]
        place = int(np.flatnonzero((NB201.archs == digits).all(1))[0])
        assert int(text[3 * number:3 * number + 3], 36) == round(truth.values[place] * 100)
    with pytest.raises(ValueError, match="do not fit"):
        explorer_data.packed(truth + 1300, 0.1, 2)
    with pytest.raises(ValueError, match="do not fit"):
        explorer_data.packed(truth.where(truth < 80), 0.1, 2)


def test_shares_and_the_best_of_a_region(truth):
    archs = NB201.archs[:7]
    found = explorer_data.shares(archs)
    for e in range(6):
        for o in range(5):
            assert found.values[e, o] == sum(a[e] == o for a in archs) / 7
    score = truth - 3
    best = explorer_data.best_of(score, truth, {"shown": [80, 81], "score": [77, 77.5]}, count=4)
    inside = sorted((t for t in truth.values if 80 <= t <= 80.5), reverse=True)
    assert best["true (%)"].tolist() == [round(t, 2) for t in inside[:4]]
    assert len(explorer_data.best_of(score, truth, {})) == 8


def test_the_course_of_a_law(stage1, truth):
    one = {"digits": stage1["digits"].sel(stage1=["rsps", "gdas"])}
    found = explorer_data.course(one, {"digits": truth})
    assert found.groupby("stage1").seed.apply(list).to_dict() == {"gdas": [0, 1, 2], "rsps": [0, 1, 2]}
    row = found[(found.stage1 == "gdas") & (found.seed == 2)].iloc[0]
    law = one["digits"].probs_history.sel(stage1="gdas", seed=2).isel(epoch=-1).values
    p = np.array([np.prod([law[e, a[e]] for e in range(6)]) for a in NB201.archs])
    assert row.expected[-1] == pytest.approx((p * truth.values).sum(), abs=0.006)
    best = 100 - truth.values < np.sort(100 - truth.values)[625]
    assert row.best[-1] == pytest.approx(p[best].sum(), abs=6e-5) and row.best[0] == pytest.approx(best.mean(), abs=6e-5)
    assert row.probs[7][-1] == round(law[1, 2], 3)
    level = one["digits"].assign(probs_history=one["digits"].probs_history * 0 + 0.2)
    assert explorer_data.course({"digits": level}, {"digits": truth}).empty, "a law that stays uniform has no course"


@pytest.fixture(scope="module")
def page(stage1, truth, tmp_path_factory):
    """All three charts on a page of their own, in a browser."""
    charts.enable("book")
    truths = {"digits": truth, "letters": truth}
    scored = explorer_data.runs(stage1, truths)
    where = evaluate.score_map(stage1["digits"].score, truth)
    shown = [explorer.space(*scored, "gdas"), explorer.laws(explorer_data.course(stage1, truths), "darts"),
             explorer.rules({"one": where, "other": where.assign(spearman=-where.spearman)}, "gdas")]
    folder = tmp_path_factory.mktemp("explorer")
    bookext.write_scripts(types.SimpleNamespace(outdir=folder))
    body = "".join(bookext._chart(json.loads(c.to_json())).astext() for c in shown)
    scripts = "".join(f'<script src="_static/nas-{n}.js" defer></script>' for n in ("vega", "charts"))
    (folder / "index.html").write_text(f"<!doctype html><meta charset=utf8><title>Explorer</title>{body}{scripts}", "utf8")
    assert (folder / "index.html").stat().st_size < 3e6
    with Browser(folder) as browser:
        page = browser.open((folder / "index.html").as_uri())
        for k in range(3):
            page.wait(f"{CHART.format(k)}.dataset.state === 'live'")
        yield page


def items(page, chart: int, field: str, keys: str) -> list:
    page.run(f"{CHART.format(chart)}.view.runAsync().then(() => 1)")
    keys = ", d.".join(keys.split())
    return page.run(ITEMS.replace("CHART", CHART.format(chart)).replace("FIELD", field).replace("KEYS", keys))


def pick(page, chart: int, **values):
    for name, value in values.items():
        page.run(f"""(() => {{ const s = {CHART.format(chart)}.querySelector('select[name={name}]');
                     s.value = {json.dumps(str(value))}; s.dispatchEvent(new Event('change')); }})()""")


def canvas(page) -> tuple[float, float]:
    """Where the plot of the first chart begins."""
    page.run(f"{CHART.format(0)}.scrollIntoView()")
    return page.run("""(() => { const c = document.querySelector('canvas').getBoundingClientRect(), chart = CHART;
        const find = (i) => i.name === 'concat_0_group' ? i.items[0] : (i.items ?? []).map(find).find(Boolean);
        const g = find(chart.view.scenegraph().root), o = chart.view.origin();
        return [c.x + o[0] + g.x, c.y + o[1] + g.y]; })()""".replace("CHART", CHART.format(0)))


@needs_browser
def test_nothing_is_complained_of(page):
    assert not page.complaints


@needs_browser
def test_every_cell_is_drawn_and_the_pickers_change_them(page, stage1, truth):
    for data, method, seed in (("digits", "gdas", 0), ("letters", "darts", 2)):
        pick(page, 0, data=data, method=method, seed=seed)
        drawn = items(page, 0, "shown", "i truth score")
        drawn = np.array(drawn)[np.unique([d[0] for d in drawn], return_index=True)[1]]
        assert len(drawn) == len(NB201)
        score = stage1[data].score.sel(stage1=method, seed=seed).values[explorer_data.order()]
        np.testing.assert_allclose(drawn[:, 2], score, atol=0.051)
        np.testing.assert_allclose(drawn[:, 1], truth.values[explorer_data.order()], atol=0.0051)


@needs_browser
def test_a_region_shows_its_operations(page, truth, stage1):
    pick(page, 0, data="digits", method="gdas", seed=1)
    x, y = canvas(page)
    page.drag((x + 200, y + 20), (x + 320, y + 150))
    shown = items(page, 0, "share", "edge op share cells")
    region = page.run(f"{CHART.format(0)}.view.signal('brush')")
    assert set(region) == {"shown", "score"}
    score = stage1["digits"].score.sel(stage1="gdas", seed=1)
    inside = ((truth > region["shown"][0]) & (truth < region["shown"][1])
              & (score > region["score"][0]) & (score < region["score"][1])).values
    expected = explorer_data.shares(NB201.archs[inside])
    assert 0 < inside.sum() < len(NB201) and abs(shown[0][3] - inside.sum()) <= 0.01 * inside.sum()
    for edge, op, share, _ in shown:
        assert share == pytest.approx(expected.sel(edge=edge, op=op).item(), abs=0.02)


@needs_browser
def test_the_cell_under_the_pointer_is_drawn(page, truth):
    pick(page, 0, data="digits", method="rsps", seed=0)
    x, y = canvas(page)
    before = page.run(f"{CHART.format(0)}.view.signal('hover').i[0]")
    assert truth.values[explorer_data.order()[before]] == truth.max(), "at first the best cell"
    for step in range(100):
        page.mouse("Moved", x + 250 + step, y + 100 + step)
        number = page.run(f"{CHART.format(0)}.view.signal('hover').i[0]")
        if number != before:
            break
    arch = NB201.archs[explorer_data.order()[number]]
    drawn = {e: op for e, op in items(page, 0, "e", "e op") if e is not None}
    assert {e: op for e, op in drawn.items()} == {e: NB201.ops[o] for e, o in enumerate(arch) if o}
    said = [text for (text,) in items(page, 0, "text", "text") if text and "by true accuracy" in text]
    assert f"{truth.values[explorer_data.order()[number]]:.2f} %" in said[0]
    rank = 1 + (truth > truth.values[explorer_data.order()[number]]).sum().item()
    assert f"number {rank:,} of 15,625" in said[0]


@needs_browser
def test_law_and_rules_follow_what_is_picked(page, stage1):
    pick(page, 1, data="digits", method="gdas", seed=2)
    law = {(e, o): p for e, o, epoch, p in items(page, 1, "probs", "edge op epoch probs") if e and epoch == 8}
    course = stage1["digits"].probs_history.sel(stage1="gdas", seed=2).isel(epoch=-1)
    assert len(law) == 30
    for (edge, op), p in law.items():
        assert p == pytest.approx(course.sel(edge=edge.replace(" ← ", "<-"), op=op).item(), abs=6e-4)
    pick(page, 2, method="darts")
    assert {m for (m,) in items(page, 2, "stage1", "stage1")} == {"darts"}
    assert sum(n for n, _ in items(page, 2, "x0", "count x0")) == 2 * 3 * len(NB201)


def test_a_campaign_without_scores_cannot_be_explored(monkeypatch):
    monkeypatch.setattr(explorer_data.results, "kept", lambda *_: [])
    with pytest.raises(ValueError, match="no scores"):
        explorer_data.load("quick", "digits")


def test_common_methods_only():
    count = xr.DataArray(np.ones((2, 3, 3)), dims=("stage1", "score_bin", "truth_bin"), coords={"stage1": ["darts", "gdas"]})
    one = xr.Dataset({"count": count})
    other = one.assign(count=count.where(count.stage1 == "gdas", 0))
    assert explorer._common({"a": one, "b": other}) == ["gdas"]
