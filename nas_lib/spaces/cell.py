"""A cell search space: a complete acyclic graph whose edges each carry one of a few operations.

Node 0 is the input, the last node the output; node i receives one edge from every earlier node
and sums what arrives. An architecture is a row of operation indices, one per edge, ``[edge]``;
the whole space is one array ``[arch, edge]``.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from nas_lib.sampling import draw

NONE, SKIP = "none", "skip_connect"


@dataclass(frozen=True)
class Space:
    """All cells with ``nodes`` nodes (input included) and one of ``ops`` on every edge.

    ``order_seed`` shuffles the enumeration as ``random.Random(order_seed).shuffle`` does; with
    None the first edge varies slowest and operations come in the order of ``ops``.
    """

    name: str
    nodes: int
    ops: tuple[str, ...]
    order_seed: int | None = None

    enumerable = True       # every architecture has a number, and an operation on every edge
    strided = False         # no edge changes the side of its maps, so that a skip has no weights

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Edges as (target node, source node), target by target."""
        return tuple((i, j) for i in range(1, self.nodes) for j in range(i))

    @cached_property
    def archs(self) -> np.ndarray:
        """Every architecture in benchmark order, int8 ``[arch, edge]``, read-only."""
        rows = list(itertools.product(range(len(self.ops)), repeat=len(self.edges)))
        if self.order_seed is not None:
            random.Random(self.order_seed).shuffle(rows)
        table = np.array(rows, dtype=np.int8)
        table.setflags(write=False)
        return table

    def __len__(self) -> int:
        return len(self.ops) ** len(self.edges)

    # What the stages ask of any space; an architecture's name is here its benchmark index.

    @cached_property
    def cells(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the edges of each cell."""
        return (tuple(range(len(self.edges))),)

    @property
    def size(self) -> int:
        """The number of architectures."""
        return len(self)

    @cached_property
    def stay(self) -> np.ndarray:
        """Operations that an edge of an architecture can have, ``[edge, choice]``."""
        return np.tile(np.arange(len(self.ops)), (len(self.edges), 1))

    def taken(self, draw) -> np.ndarray:
        """Edges of a random architecture, bool ``[edge]``: all, so that ``draw`` is not asked."""
        return np.ones(len(self.edges), dtype=bool)

    def name_of(self, arch) -> int:
        """The name of an architecture ``[edge]``."""
        return int(self.index(arch))

    def named(self, names) -> np.ndarray:
        """The architectures ``[n, edge]`` of these names ``[n]``."""
        return self.archs[names]

    def networks(self, names) -> np.ndarray:
        """What tells apart, among ``names [n]``, different networks under shared weights, ``[n]``."""
        return self.classes("weights")[names]

    def draw(self, log_prob, n: int, seed) -> np.ndarray:
        """Names of ``n`` architectures drawn with replacement from the law ``log_prob [arch]``."""
        return draw(log_prob, n, seed)

    def mutated(self, arch, rng: np.random.Generator) -> np.ndarray:
        """``arch [edge]`` with another operation on one random edge."""
        arch = np.array(arch)
        edge = rng.integers(len(arch))
        arch[edge] = (arch[edge] + rng.integers(1, len(self.ops))) % len(self.ops)
        return arch

    def strongest(self, weights) -> np.ndarray:
        """The heaviest operation of every edge by ``weights [edge, op]``, the first among equals, ``[edge]``."""
        return np.asarray(weights).argmax(-1)

    def crowded(self, cell) -> list[tuple[int, ...]]:
        """Nodes of a cell, by the numbers of their edges, that receive more edges than they keep: none."""
        return []

    @cached_property
    def _place(self) -> np.ndarray:
        """Position in ``archs`` of the row whose digits in base O spell the index."""
        place = np.empty(len(self), dtype=np.int64)
        place[self._digits(self.archs)] = np.arange(len(self))
        return place

    def _digits(self, archs) -> np.ndarray:
        base = len(self.ops) ** np.arange(len(self.edges) - 1, -1, -1)
        return np.asarray(archs, dtype=np.int64) @ base

    def index(self, archs) -> np.ndarray:
        """Benchmark index of ``archs [..., edge]``. Raises ValueError for an unknown operation."""
        archs = np.asarray(archs)
        if archs.shape[-1:] != (len(self.edges),):
            raise ValueError(f"an architecture of {self.name} has {len(self.edges)} edges, "
                             f"got an array of shape {archs.shape}")
        if archs.size and (archs.min() < 0 or archs.max() >= len(self.ops)):
            raise ValueError(f"operation indices of {self.name} run from 0 to {len(self.ops) - 1}")
        return self._place[self._digits(archs)]

    def string(self, arch) -> str:
        """One architecture ``[edge]`` as text: ``|op~0|+|op~0|op~1|+...``, a group per node."""
        groups = [[] for _ in range(self.nodes)]
        for (target, source), op in zip(self.edges, np.asarray(arch), strict=True):
            groups[target].append(f"{self.ops[int(op)]}~{source}")
        return "+".join("|" + "|".join(g) + "|" for g in groups[1:])

    @cached_property
    def strings(self) -> np.ndarray:
        """All architectures as text, in benchmark order."""
        groups, first = [], 0
        for n in range(1, self.nodes):          # every group there can be, then each architecture's own
            texts = ["|" + "|".join(f"{op}~{j}" for j, op in enumerate(ops)) + "|"
                     for ops in itertools.product(self.ops, repeat=n)]
            place = self.archs[:, first:first + n].astype(np.int64) @ len(self.ops) ** np.arange(n - 1, -1, -1)
            groups.append(np.array(texts, dtype=object)[place])
            first += n
        return sum(("+" + g for g in groups[1:]), groups[0]).astype(str)

    def parse(self, text: str) -> np.ndarray:
        """The architecture ``[edge]`` written as ``text``. Raises ValueError if it is not one."""
        try:
            terms = [t.split("~") for g in text.split("+") for t in g.strip("|").split("|")]
            arch = np.array([self.ops.index(op) for op, _ in terms], dtype=np.int8)
            if len(arch) != len(self.edges) or self.string(arch) != text:
                raise ValueError
        except ValueError:
            raise ValueError(f"not an architecture of {self.name}: {text!r}; expected the form "
                             f"{self.string(self.archs[0])!r}") from None
        return arch

    def live(self, archs, fed: bool = True) -> np.ndarray:
        """Edges that matter, bool ``[..., edge]``: their output reaches the output node, and
        (with ``fed``) their input is reached from the input node, over operations other than
        ``none``."""
        archs = np.asarray(archs)
        none = self.ops.index(NONE) if NONE in self.ops else -1
        on = archs != none
        out = np.zeros(archs.shape[:-1] + (self.nodes,), dtype=bool)
        out[..., -1] = True
        for e in reversed(range(len(self.edges))):
            target, source = self.edges[e]
            out[..., source] |= on[..., e] & out[..., target]
        live = on & np.stack([out[..., t] for t, _ in self.edges], -1)
        if fed:
            reached = np.zeros_like(out)
            reached[..., 0] = True
            for e, (target, source) in enumerate(self.edges):
                reached[..., target] |= on[..., e] & reached[..., source]
            live &= np.stack([reached[..., s] for _, s in self.edges], -1)
        return live

    def connected(self, archs) -> np.ndarray:
        """Whether any path leads from input to output, bool ``[...]``."""
        return self.live(archs).any(-1)

    def log_prob(self, probs) -> np.ndarray:
        """log p of every architecture under independent edges: ``sum_e log probs[e, op_e]``.

        ``probs [..., edge, op]`` -> ``[..., arch]``; a zero probability gives -inf.
        """
        with np.errstate(divide="ignore"):
            logs = np.log(np.asarray(probs, dtype=np.float64))
        return sum(logs[..., e, self.archs[:, e]] for e in range(len(self.edges)))

    def classes(self, same: str = "function") -> np.ndarray:
        """Class of every architecture, int64 ``[arch]``: the index of the first member.

        ``same`` says which cells count as one:
        ``"form"``      equal as formulas: zero terms dropped, identities contracted, sums
                        flattened (4,930 classes in NAS-Bench-201);
        ``"function"``  also use the same convolutions in the same places, so that one layer used
                        twice differs from two layers (5,260): cells of one class are the same
                        network when trained from scratch;
        ``"weights"``   also carry those convolutions on the same edges (7,810): cells of one class
                        are the same network under weights shared over the space;
        ``"usual"``     the count quoted for NAS-Bench-201, in which a zero term still tells cells
                        apart (6,466).
        """
        if same not in ("form", "function", "weights", "usual"):
            raise ValueError(f"unknown equivalence {same!r}: form, function, weights or usual")
        return _classes(self, same)

    def _formula(self, arch, same, number):
        """The output's terms, each (operation, layer, input) as the number that ``number`` gives to it."""
        def nodes(layer):
            values = [(-1,)]
            for i in range(1, self.nodes):
                terms = []
                for e, (target, source) in enumerate(self.edges):
                    op = self.ops[arch[e]]
                    if target != i or op == NONE or not values[source]:
                        continue
                    if op == SKIP:
                        terms += values[source]
                    else:
                        term = (op, layer(e) if "conv" in op else "", values[source])
                        terms.append(number.setdefault(term, len(number)))
                values.append(tuple(sorted(terms)))
            return values

        if same == "form":
            return nodes(lambda e: "")[-1]
        if same == "weights":
            return nodes(str)[-1]
        # "function": name the layers so that the formula comes first in order; only layers with
        # the same operation and the same input formula can trade names.
        plain, alike = nodes(lambda e: ""), {}
        for e in np.flatnonzero(self.live(arch)):
            if "conv" in self.ops[arch[e]]:
                alike.setdefault((arch[e], plain[self.edges[e][1]]), []).append(int(e))
        orders = itertools.product(*(itertools.permutations(g) for g in alike.values()))
        names = (dict(zip(itertools.chain(*alike.values()), itertools.chain(*o), strict=True))
                 for o in orders)
        return min(nodes(lambda e, n=n: str(_rank(n, e, alike)))[-1] for n in names)

    def _usual(self, arch):
        values = ["0"]
        for i in range(1, self.nodes):
            terms = []
            for e, (target, source) in enumerate(self.edges):
                if target == i:
                    op, x = self.ops[arch[e]], values[source]
                    terms.append("#" if op == NONE or x == "#" else x if op == SKIP else f"({x})@{op}")
            values.append("+".join(sorted(terms)))
        return values[-1]


@lru_cache
def _classes(space: Space, same: str) -> np.ndarray:
    first, number = {}, {}
    key = space._usual if same == "usual" else lambda a: space._formula(a, same, number)
    found = np.array([first.setdefault(key(a), i) for i, a in enumerate(space.archs.tolist())])
    found.setflags(write=False)
    return found


def _rank(names, edge, groups):
    """The position, inside its group of like layers, of the name that ``edge`` goes by."""
    for group in groups.values():
        if edge in group:
            return group.index(names[edge])
    return ""
