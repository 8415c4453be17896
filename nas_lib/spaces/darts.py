"""The DARTS space S0 (Liu et al., ICLR 2019) and S1 to S4 of RobustDARTS (Zela et al., ICLR 2020).

An architecture is two cells, a normal and a reduction cell. Each has the outputs of the two cells before it as
states 0 and 1, then four nodes, and puts out all four; a node keeps two of its incoming edges. Both cells together
are one graph of twelve nodes and 28 edges, the normal cell's 14 first, so that what holds for an edge of any other
space (a row of alpha, a column of an array) holds here. There are too many architectures to list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nas_lib.spaces.cell import NONE
from nas_lib.spaces.genotype import NAMES, NODES, Genotype
from nas_lib.spaces.genotype import parse as parse_genotype

STATES = 2 + NODES                          # of a cell: two inputs and the nodes
EDGES = sum(2 + i for i in range(NODES))    # of a cell


@dataclass(frozen=True)
class CellPairs:
    """Pairs of cells whose edge e carries one of ``table[e]``, ``[edge][op]``; ``none`` may be there but not stay.

    An architecture is an int8 row ``[edge]``: the operation's column in the table, -1 where the edge is not taken.
    """

    name: str
    table: tuple[tuple[str, ...], ...]
    pool_norm: bool = False     # in the network of one architecture, poolings are followed by a batch norm

    nodes = 2 * STATES
    enumerable = False          # too many, and a node takes two of its edges
    strided = True              # the reduction cell's first edges halve the side

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Edges as (target node, source node), target by target: states 0 to 5 of the normal cell, then 6 to 11."""
        return tuple((start + 2 + i, start + j) for start in (0, STATES) for i in range(NODES) for j in range(2 + i))

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """Names of the columns: the operations, or where they differ between edges "first", "second"."""
        return self.table[0] if len(set(self.table)) == 1 else ("first", "second")

    @cached_property
    def incoming(self) -> tuple[np.ndarray, ...]:
        """Numbers of the edges into each of the eight nodes, in ascending order."""
        targets = np.array([t for t, _ in self.edges])
        return tuple(np.flatnonzero(targets == t) for t in sorted(set(targets.tolist())))

    @cached_property
    def cells(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the edges of the normal and of the reduction cell."""
        return tuple(range(EDGES)), tuple(range(EDGES, 2 * EDGES))

    @cached_property
    def stay(self) -> np.ndarray:
        """Operations that an edge of an architecture can have, ``[edge, choice]``: all but ``none``."""
        return np.array([np.flatnonzero(~row) for row in self._none])

    @cached_property
    def _none(self) -> np.ndarray:
        return np.array([[op == NONE for op in row] for row in self.table])

    @property
    def size(self) -> int:
        """The number of architectures."""
        stay = (~self._none).sum(1)
        return math.prod(sum(int(stay[a] * stay[b]) for k, a in enumerate(edges) for b in edges[:k])
                         for edges in self.incoming)

    def prune(self, alpha) -> np.ndarray:
        """The architecture that logits ``alpha [edge, op]`` prefer: ``strongest`` of their softmax per edge."""
        alpha = np.asarray(alpha)
        p = np.exp(alpha - alpha.max(-1, keepdims=True))
        return self.strongest(p / p.sum(-1, keepdims=True))

    def strongest(self, weights) -> np.ndarray:
        """For each node the two incoming edges of the largest weight, on each its heaviest operation, ``[edge]``.

        ``weights [edge, op]``, in which ``none`` does not count; equals go to the lower edge and the lower operation
        (Liu et al., section 2.4). Raises ValueError if a weight is not finite.
        """
        weights = self._shaped(weights)
        weights = np.where(self._none, -np.inf, weights)
        best, op = weights.max(-1), weights.argmax(-1)
        arch = np.full(len(self.edges), -1, dtype=np.int8)
        for edges in self.incoming:
            kept = edges[np.argsort(-best[edges], kind="stable")[:2]]
            arch[kept] = op[kept]
        return arch

    def joint(self, alpha) -> np.ndarray:
        """The law of a node's first edge and its operation, ``exp alpha`` normalised over the node, ``[edge, op]``.

        It compares the raw logits of different edges, as "Picking up the pieces" samples in S0 (algorithms, 4.1).
        """
        alpha = self._shaped(np.asarray(alpha, dtype=np.float64))
        top = np.zeros(len(self.edges))
        for edges in self.incoming:
            top[edges] = np.where(self._none, -np.inf, alpha)[edges].max()
        return self.normalised(np.exp(np.minimum(alpha - top[:, None], 0)))

    def sample(self, probs, n: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` architectures, ``[n, edge]``: per node an edge with its operation, then one of another edge.

        ``probs [edge, op]`` as from ``joint``, or any weights: they are normalised over each node's incoming edges,
        after the first draw over those that remain; ``none`` is never drawn. Raises ValueError if a weight is
        negative or not finite, or if a node has fewer than two edges with a weight.
        """
        law, ops = self.normalised(probs), len(self.ops)
        archs = np.full((n, len(self.edges)), -1, dtype=np.int8)
        for edges in self.incoming:
            p = law[edges]                                                      # incoming, op
            remains = np.where(np.eye(len(edges), dtype=bool)[:, :, None], 0, p)    # first edge, incoming, op
            draws = rng.random((2, n))
            first = _place(np.broadcast_to(p.ravel(), (n, p.size)), draws[0])
            second = _place(remains.reshape(len(edges), -1)[first // ops], draws[1])
            for drawn in (first, second):
                archs[np.arange(n), edges[drawn // ops]] = drawn % ops
        return archs

    def log_prob(self, probs, archs) -> np.ndarray:
        """log p of ``archs [..., edge]`` under the law that ``sample`` draws from, ``[...]``.

        A node that takes a and b: ``p_a p_b (1 / (1 - P_a) + 1 / (1 - P_b))``, P the sum of an edge's p.
        """
        law, archs = self.normalised(probs), self._checked(archs)
        total = np.zeros(archs.shape[:-1])
        for edges in self.incoming:
            p, chosen = law[edges], archs[..., edges]
            mass = p.sum(-1)
            others = (1 - np.eye(len(edges))) @ mass                            # exact where one edge has all but a bit
            taken = chosen >= 0
            picked = p[np.arange(len(edges)), np.maximum(chosen, 0)]
            with np.errstate(divide="ignore"):
                total += np.log(picked, where=taken, out=np.zeros(taken.shape)).sum(-1)
            total += np.log((taken / others).sum(-1))
        return total

    # What the stages ask of any space; an architecture's name is here its text.

    def taken(self, draw) -> np.ndarray:
        """Edges of a random architecture, bool ``[edge]``; ``draw(k)`` is a random whole number below k."""
        taken = np.zeros(len(self.edges), dtype=bool)
        for edges in self.incoming:
            first, second = draw(len(edges)), draw(len(edges) - 1)
            taken[edges[[first, second + (second >= first)]]] = True
        return taken

    def name_of(self, arch) -> str:
        """The name of an architecture ``[edge]``."""
        return self.string(arch)

    def named(self, names) -> np.ndarray:
        """The architectures ``[n, edge]`` of these names ``[n]``."""
        return np.stack([self.parse(text) for text in names])

    def networks(self, names) -> np.ndarray:
        """What tells apart, among ``names [n]``, different networks under shared weights: the names."""
        return np.asarray(names)

    def draw(self, log_prob, n: int, seed) -> np.ndarray:
        """Names of ``n`` architectures drawn with replacement from the law whose logarithm is ``log_prob [edge, op]``:
        see ``sample``."""
        return np.array([self.string(a) for a in self.sample(np.exp(log_prob), n, np.random.default_rng(seed))])

    def mutated(self, arch, rng: np.random.Generator) -> np.ndarray:
        """``arch [edge]`` with another operation, or another source, for one random edge that it takes."""
        arch = np.array(arch)
        edge = rng.choice(np.flatnonzero(arch >= 0))
        node = next(edges for edges in self.incoming if edge in edges)
        rest = [(e, o) for e in node if e == edge or arch[e] < 0 for o in self.stay[e] if (e, o) != (edge, arch[edge])]
        arch[edge] = -1
        edge, op = rest[rng.integers(len(rest))]
        arch[edge] = op
        return arch

    def crowded(self, cell) -> list[tuple[int, ...]]:
        """Nodes of a cell, by the numbers of their edges, that receive more edges than the two they keep."""
        return [tuple(edges.tolist()) for edges in self.incoming if edges[0] in cell and len(edges) > 2]

    def encode(self, cells: Genotype) -> np.ndarray:
        """The architecture ``[edge]`` of two cells. Raises ValueError if an operation is not in this space."""
        arch = np.full(len(self.edges), -1, dtype=np.int8)
        for start, cell in ((0, cells.normal), (EDGES, cells.reduce)):
            for k, (op, source) in enumerate(cell):
                node = k // 2
                edge = start + (node * (node + 3)) // 2 + source
                if op not in self.table[edge]:
                    where = f"state {source} to node {node} of the {'reduction' if start else 'normal'} cell"
                    raise ValueError(f"{op} from {where} is not in {self.name}: there it is "
                                     f"{' or '.join(self.table[edge])}")
                arch[edge] = self.table[edge].index(op)
        return arch

    def genotype(self, arch, strength=None) -> Genotype:
        """The cells of an architecture ``[edge]``; a node's edges by falling ``strength [edge]``, else by source."""
        arch = self._checked(arch)
        strength = np.zeros(len(arch)) if strength is None else np.asarray(strength)
        pairs = []
        for edges in self.incoming:
            for e in sorted(edges[arch[edges] >= 0], key=lambda e: -strength[e]):
                pairs.append((self.table[e][arch[e]], self.edges[e][1] % STATES))
        return Genotype(tuple(pairs[:2 * NODES]), tuple(pairs[2 * NODES:]))

    def string(self, arch) -> str:
        """One architecture ``[edge]`` as text, in the short notation of ``genotype``."""
        return str(self.genotype(arch))

    def parse(self, text: str) -> np.ndarray:
        """The architecture ``[edge]`` written as ``text`` in either notation. Raises ValueError if it is not one."""
        return self.encode(parse_genotype(text))

    def _checked(self, archs) -> np.ndarray:
        """``archs [..., edge]`` as they came. Raises ValueError unless every node has two edges of this space."""
        archs = np.asarray(archs)
        if archs.shape[-1:] != (len(self.edges),):
            raise ValueError(f"an architecture of {self.name} has {len(self.edges)} edges, "
                             f"got an array of shape {archs.shape}")
        if archs.size and (archs.min() < -1 or archs.max() >= len(self.ops)):
            raise ValueError(f"operation indices of {self.name} run from 0 to {len(self.ops) - 1}, -1: not taken")
        if (self._none[np.arange(len(self.edges)), np.maximum(archs, 0)] & (archs >= 0)).any():
            raise ValueError(f"an edge with {NONE} is not taken: write -1")
        if any(((archs[..., edges] >= 0).sum(-1) != 2).any() for edges in self.incoming):
            raise ValueError(f"in {self.name} every node takes two edges")
        return archs

    def _shaped(self, weights) -> np.ndarray:
        weights = np.asarray(weights)
        if weights.shape != self._none.shape or not np.isfinite(weights).all():
            raise ValueError(f"expected finite numbers of shape {self._none.shape}, got {weights.shape}")
        return weights

    def normalised(self, probs) -> np.ndarray:
        """Weights ``[edge, op]`` as a law over the edges into each node, in which ``none`` has no part."""
        law = np.where(self._none, 0, self._shaped(np.asarray(probs, dtype=np.float64)))
        if law.min() < 0:
            raise ValueError("a probability is negative")
        for edges in self.incoming:
            if (law[edges].sum(-1) > 0).sum() < 2:
                raise ValueError(f"node {self.edges[edges[0]][0]} has fewer than two edges with a probability")
            law[edges] /= law[edges].sum()
        return law


def _place(weights: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Entries drawn in proportion to ``weights [n, entry]`` by uniform numbers ``u [n]``; none of weight 0."""
    ends = weights.cumsum(-1)
    return (ends / ends[:, -1:] <= u[:, None]).sum(-1)


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    """Operations per edge, written by their letters."""
    return tuple(tuple(NAMES[letter] for letter in edge) for edge in text.split())


S0 = CellPairs("s0", 2 * EDGES * _rows("maksSdD"), pool_norm=True)
S1 = CellPairs("s1", _rows("kd kD kD ks kd mk ks ks kd ks mk kd dD dD  ma md ma ma kD ma ms kd kD ma ma kD kD kD"))
S2 = CellPairs("s2", 2 * EDGES * _rows("ks"))
S3 = CellPairs("s3", 2 * EDGES * ((NONE, *_rows("ks")[0]),))
S4 = CellPairs("s4", 2 * EDGES * _rows("ns"))
