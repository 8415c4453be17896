"""Pairs of cells as text, in two notations that say the same.

Short, as the published cells are listed here: ``s0 s1 s1 s2 s1 D2 m2 k4 / m0 d1 a1 d2 D0 S2 k0 a3``, the normal
cell, then the reduction cell; two edges for each of four nodes, an operation's letter and the source state (0 and 1
are the outputs of the two cells before, 2 the first node). Usual, as the published code prints them:
``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))``.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

LETTERS = {"max_pool_3x3": "m", "avg_pool_3x3": "a", "skip_connect": "k", "sep_conv_3x3": "s", "sep_conv_5x5": "S",
           "dil_conv_3x3": "d", "dil_conv_5x5": "D", "noise": "n"}
NAMES = {letter: name for name, letter in LETTERS.items()}
NODES = 4
LIMIT = 10_000      # characters: far more than two cells take, too few to hurt

Pairs = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Genotype:
    """Two cells, each eight pairs (operation, source state), two per node, whose order is kept.

    Raises ValueError for what is no such cell: an unknown operation, a source that is not yet there, one source twice.
    """

    normal: Pairs
    reduce: Pairs

    def __post_init__(self):
        for cell in ("normal", "reduce"):
            pairs = tuple((op, source) for op, source in getattr(self, cell))
            object.__setattr__(self, cell, pairs)
            if len(pairs) != 2 * NODES:
                raise ValueError(f"{cell}: {len(pairs)} edges, not two for each of {NODES} nodes")
            for i, (op, source) in enumerate(pairs):
                if op not in LETTERS:
                    raise ValueError(f"{cell}: unknown operation {op!r}; there are {', '.join(LETTERS)}")
                if type(source) is not int or not 0 <= source < 2 + i // 2:
                    raise ValueError(f"{cell}: node {i // 2} cannot read state {source!r}, only 0 to {1 + i // 2}")
            for node in range(NODES):
                if pairs[2 * node][1] == pairs[2 * node + 1][1]:
                    raise ValueError(f"{cell}: node {node} reads state {pairs[2 * node][1]} twice")

    def __str__(self) -> str:
        """The short notation."""
        return " / ".join(" ".join(f"{LETTERS[op]}{source}" for op, source in cell)
                          for cell in (self.normal, self.reduce))

    def __repr__(self) -> str:
        """The usual notation."""
        ends = f"range(2, {2 + NODES})"
        return (f"Genotype(normal={list(self.normal)}, normal_concat={ends}, "
                f"reduce={list(self.reduce)}, reduce_concat={ends})")


def parse(text: str) -> Genotype:
    """The cells written as ``text`` in either notation; nothing in it is executed. Raises ValueError."""
    try:
        if len(text) > LIMIT:
            raise ValueError(f"{len(text)} characters are more than two cells take")
        return Genotype(*(_usual(text) if "(" in text else _short(text)))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"no pair of cells: {text[:60]!r}: {error}; expected the form 's0 s1 s1 s2 s1 D2 m2 k4 / "
                         "m0 d1 a1 d2 D0 S2 k0 a3' or 'Genotype(normal=[...], ...)'") from None


def _short(text: str) -> list[Pairs]:
    cells = text.split("/")
    if len(cells) != 2:
        raise ValueError(f"{len(cells)} cells instead of a normal and a reduction cell")
    for word in text.replace("/", " ").split():
        if not re.fullmatch("[a-zA-Z][0-9]", word) or word[0] not in NAMES:
            raise ValueError(f"{word!r} is no operation ({''.join(NAMES)}) with its source state")
    return [tuple((NAMES[word[0]], int(word[1])) for word in cell.split()) for cell in cells]


def _usual(text: str) -> list[Pairs]:
    call = ast.parse(text.strip(), mode="eval").body
    named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"
    if not named or call.args:
        raise ValueError("not of the form Genotype(name=value, ...)")
    given = {k.arg: k.value for k in call.keywords}
    wanted = {"normal", "normal_concat", "reduce", "reduce_concat"}
    if len(call.keywords) != len(given) or given.keys() != wanted:
        raise ValueError(f"its parts must be {', '.join(sorted(wanted))}")
    for cell in ("normal", "reduce"):
        value = given[cell + "_concat"]
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
            states = list(range(*map(ast.literal_eval, value.args))) if len(value.args) < 3 else []
        else:
            states = list(ast.literal_eval(value))
        if states != list(range(2, 2 + NODES)):
            raise ValueError(f"{cell}_concat: the output of a cell is that of all its nodes, 2 to {1 + NODES}")
    return [tuple(tuple(pair) for pair in ast.literal_eval(given[cell])) for cell in ("normal", "reduce")]
