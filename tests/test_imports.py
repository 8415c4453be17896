"""Who may import whom, who must do without torch, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nas_lib

ROOT = Path(nas_lib.__file__).parent
FILES = sorted(f for f in ROOT.rglob("*.py") if "__pycache__" not in f.parts)
LEVELS = {
    0: "nas_lib spaces embedded benchmark official official_table guarded opcodes metrics intervals results published pairs claims sampling protocol parameters images pictures pickled",
    1: "marks drawing figures cost_figures paper_figures notes tables charts takeaway bookext explorer explorer_data data ops augment devices",
    2: "fused graphed supernet networks checkpoint jit smallnets kernels tiles convolution program compiled compiled_ranking scores",
    3: "training sweep steps unrolled layers pieces ranking proxies standalone selection final",
    4: "stage1 stage2 methods",
    5: "evaluate experiments performance growth plan audit method_pages completeness outcomes verify",
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}


def part(module: str) -> str:
    """``nas_lib.stage1.darts`` belongs to ``stage1``."""
    return (module.split(".") + [""])[1] or "nas_lib"


def module(file: Path) -> str:
    return ".".join(["nas_lib", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def imports(file: Path) -> set[str]:
    """Modules of the library that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: a relative import"
            inside = {f"{node.module}.{a.name}" for a in node.names} & {module(f) for f in FILES}
            found |= inside or {node.module}
    return {m for m in found if m.split(".")[0] == "nas_lib"}


@pytest.mark.parametrize("file", FILES, ids=module)
def test_no_import_points_upward(file):
    here = part(module(file))
    assert here in LEVEL, f"give {here} a level in this file"
    for other in imports(file):
        assert LEVEL[part(other)] <= LEVEL[here], f"{module(file)} must not import {other}"


def test_no_circle():
    graph = {module(f): imports(f) - {module(f)} for f in FILES}
    while leaves := {m for m, needs in graph.items() if not needs & graph.keys()}:
        graph = {m: needs for m, needs in graph.items() if m not in leaves}
    assert not graph


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name in ("stage1", "stage2")], ids=module)
def test_a_method_stands_alone(file):
    forbidden = ("stage1", "stage2", "benchmark", "evaluate", "experiments")
    assert not [m for m in imports(file) if part(m) in forbidden]
    assert len(file.read_text().splitlines()) <= 150


@pytest.mark.parametrize("file", FILES, ids=module)
def test_modules_are_short(file):
    assert len(file.read_text().splitlines()) <= 300


def test_results_can_be_read_and_drawn_without_torch():
    names = ("spaces", "metrics", "results", "benchmark", "sampling", "figures", "tables", "published")
    there = [f"nas_lib.{n}" for n in names if f"nas_lib.{n}" in {module(f) for f in FILES}]
    assert len(there) >= 7
    code = f"import sys, {', '.join(there)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
