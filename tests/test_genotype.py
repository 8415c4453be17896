"""Pairs of cells as text, the published ones, and their picture."""

import json
import re

import pytest
import vl_convert

from nas_lib import charts, figures
from nas_lib.spaces import NB201, SPACES, Genotype
from nas_lib.spaces.genotype import parse
from nas_lib.spaces.published_cells import CELLS

SHORT = "s0 s1 s0 s1 s1 k0 k0 d2 / m0 m1 k2 m1 m0 k2 k2 m1"
USUAL = ("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
         "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), "
         "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), "
         "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))")


def test_both_notations_of_the_second_order_darts_cell():
    cells = parse(SHORT)
    assert cells == parse(USUAL) == Genotype(cells.normal, cells.reduce)
    assert str(cells) == SHORT and repr(cells) == USUAL
    assert cells.normal[5] == ("skip_connect", 0) and cells.reduce[2] == ("skip_connect", 2)
    listed = USUAL.replace("range(2, 6)", "[2, 3, 4, 5]").replace("), (", "),\n ( ")
    assert parse(listed) == parse(f"  {SHORT}\n") == cells


def test_published_cells_are_read_and_printed_back():
    assert {s: len(c) for s, c in CELLS.items()} == {"s0": 75, "s1": 8, "s2": 6, "s3": 6, "s4": 6}
    for name, cells in CELLS.items():
        for text in cells.values():
            assert str(parse(text)) == text and str(parse(repr(parse(text)))) == text
            arch = SPACES[name].parse(text)         # every operation is in the table of its edge
            assert (SPACES[name].parse(SPACES[name].string(arch)) == arch).all()
    assert CELLS["s0"]["darts- 12 perturb"] == "s0 s1 s1 d2 s0 D2 k0 s3 / k0 k1 a1 S2 a0 S3 S1 S2"
    assert CELLS["s4"]["blankm2_pt"] == "s0 s1 s0 s2 s0 s1 s0 s1 / s0 s1 s0 s2 s1 s2 s0 s1"
    assert len({(n.split()[0], n.split()[1]) for n in CELLS["s0"]}) == 15


@pytest.mark.parametrize("text, reason", [
    ("", "1 cells"), ("s0 s1", "1 cells"), (SHORT + " / s0", "3 cells"), (SHORT[:-3], "reduce: 7 edges"),
    (SHORT.replace("s0", "x0", 1), "'x0' is no operation"), (SHORT.replace("d2", "d5"), "node 3 cannot read state 5"),
    (SHORT.replace("s0", "s2", 1), "node 0 cannot read state 2, only 0 to 1"), (SHORT.replace("m1", "m0", 1), "twice"),
    (SHORT.replace("s0", "sep0", 1), "'sep0' is no operation"), (SHORT.replace("s0", "s٠", 1), "is no operation"),
    (USUAL.replace("range(2, 6)", "range(3, 6)", 1), "normal_concat: the output of a cell"),
    (USUAL.replace("range(2, 6)", "range(2, 10**9, 3)", 1), "no pair of cells"),
    (USUAL.replace("range(2, 6)", "range(999999999999)", 1), "no pair of cells"),
    (USUAL.replace("sep_conv_3x3", "sep_conv_7x7", 1), "unknown operation 'sep_conv_7x7'"),
    (USUAL.replace("0)", "True)", 1), "cannot read state True"), (USUAL.replace("Genotype", "list"), "not of the form"),
    (USUAL.replace("reduce=", "reduced="), "its parts must be"), (USUAL[:-1], "no pair of cells"),
    (USUAL.replace("('sep_conv_3x3', 0)", "5", 1), "no pair of cells"), ("(" * 5000, "no pair of cells"),
    ("Genotype(" * 900 + ")" * 900, "no pair of cells"), (USUAL + " " * 10_000, "more than two cells take")])
def test_a_text_that_is_no_pair_of_cells(text, reason):
    with pytest.raises(ValueError, match="no pair of cells") as error:
        parse(text)
    assert reason in str(error.value) and "expected the form" in str(error.value)


@pytest.mark.parametrize("call", ["__import__('pathlib').Path('{}').touch()", "open('{}', 'w')"])
def test_nothing_in_a_text_is_executed(call, tmp_path):
    call = call.format(tmp_path / "planted")
    for text in (USUAL.replace("range(2, 6)", call, 1), f"Genotype(normal={call}, reduce=[])", call,
                 USUAL.replace("'sep_conv_3x3'", call, 1)):
        with pytest.raises(ValueError, match="no pair of cells"):
            parse(text)
    assert not list(tmp_path.iterdir())


def test_picture_of_both_cells():
    cells = parse(CELLS["s0"]["darts- 10 jacob_cov"])
    chart = figures.cell(str(cells), "darts-").to_dict()
    assert chart == figures.cell(cells, "darts-").to_dict() == figures.cell(repr(cells), "darts-").to_dict()
    assert str(cells) in chart["description"] and chart["title"]["text"] == "darts-"
    assert [c["title"]["text"] for c in chart["hconcat"]] == ["normal cell", "reduction cell"]
    names = ["k−2", "k−1", "0", "1", "2", "3"]
    for drawn, pairs in zip(chart["hconcat"], (cells.normal, cells.reduce), strict=True):
        data = chart["datasets"][drawn["layer"][0]["data"]["name"]]
        shown = {row["edge"]: row["op"] for row in data}
        assert shown == {f"{k // 2} ← {names[source]}": op for k, (op, source) in enumerate(pairs)}
        at = {row["name"]: (row["x"], row["y"]) for row in chart["datasets"][drawn["layer"][2]["data"]["name"]]}
        for row in data:                        # each arc ends at its nodes and keeps clear of the others
            target, source = row["edge"].split(" ← ")
            if row["step"] in (0, 24):
                assert (row["x"], row["y"]) == pytest.approx(at[source if row["step"] == 0 else target], abs=2e-3)
            for name in set(at) - {target, source}:
                assert abs(row["x"] - at[name][0]) > 0.2 or abs(row["y"] - at[name][1]) > 0.2
    assert len(json.dumps(chart)) < 100_000


def test_every_operation_has_its_colour():
    scale = figures.cell(SHORT).to_dict()["hconcat"][0]["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert set(scale) == {op for space in ("s0", "s4") for op in SPACES[space].ops}


def arcs(spec):
    """The lines of a picture: path, colour, dashes."""
    svg = vl_convert.vegalite_to_svg(spec, vl_version=charts.VEGA_LITE)
    return sorted(re.findall(r'"line mark" d="([^"]*)"( .*?)/>', svg))


@pytest.mark.parametrize("cells", [CELLS["s2"], {f"number {i}": str(NB201.strings[i]) for i in (5744, 9)}], ids=["pairs", "nb201"])
def test_a_cell_chosen_from_a_list_is_drawn_as_alone(cells):
    spec = figures.chooser(cells).to_dict()
    (param,) = spec["params"]
    assert param["bind"]["options"] == list(cells) and param["value"] == list(cells)[0]
    first, last = list(cells)[0], list(cells)[-1]
    shown = arcs(spec)
    assert len(shown) == (16 if "/" in cells[first] else 6 - cells[first].count("none"))
    spec["params"][0]["value"] = last
    assert arcs(spec) == arcs(figures.cell(cells[last]).to_dict()) != shown
    assert all(name in spec["description"] for name in cells)


def test_all_published_cells_of_s0_fit_a_page():
    assert len(json.dumps(figures.chooser(CELLS["s0"]).to_dict())) < 200_000


@pytest.mark.parametrize("text", ["nothing", "s0 s1 / s0", 7])
def test_no_cell_no_picture(text):
    with pytest.raises(ValueError, match="no pair of cells"):
        figures.cell(text)
