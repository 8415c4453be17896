"""Networks of the DARTS spaces: the supernet, and the network of one architecture that is trained from scratch.

Both have one skeleton (Liu et al., ICLR 2019, section 2; algorithms, section 2): a stem of 3C channels, L cells, of
which numbers L//3 and 2L//3 are reduction cells that halve the side and double the channels, global average pool,
classifier. A cell reads the outputs of the two cells before it, brought to its own number of channels and side, and
puts out its four nodes side by side. Module names follow the published code, so that its checkpoints keep their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_lib.ops import FactorizedReduce, ReLUConvBN, Separable, draw_from, shuffle, stem, strided
from nas_lib.spaces.darts import EDGES, CellPairs
from nas_lib.spaces.genotype import NODES, Genotype


class Skeleton(nn.Module):
    """Stem, ``cells`` L, classifier; ``cell(c0, c1, channels, reduces, halves)`` makes a cell.

    ``c0`` and ``c1`` are the channels of its inputs; ``reduces`` says that it is a reduction cell, ``halves`` that the
    one before it was, so that its first input has twice its side. ``layout`` is that of all feature maps.
    """

    def __init__(self, cell, channels, cells, classes, in_channels, layout=torch.channels_last):
        super().__init__()
        self.layout = layout
        self.stem = stem(in_channels, 3 * channels)
        self.cells = nn.ModuleList()
        c0, c1, width, halves = 3 * channels, 3 * channels, channels, False
        for i in range(cells):
            reduces = i in (cells // 3, 2 * cells // 3)
            width *= 1 + reduces
            self.cells.append(cell(c0, c1, width, reduces, halves))
            c0, c1, halves = c1, NODES * width, reduces
        self.classifier = nn.Linear(c1, classes)
        draw_from(self, torch.Generator())
        self.to(memory_format=layout)

    def features(self, x: Tensor, arguments, tap: int | None = None) -> tuple[Tensor, Tensor | None]:
        """The pooled features ``[B, channel]``, and the output of cell ``tap``.

        ``arguments(cell)`` are a cell's own beside the two inputs.
        """
        before = last = self.stem(x.contiguous(memory_format=self.layout))
        tapped = None
        for i, cell in enumerate(self.cells):
            before, last = last, cell(before, last, *arguments(cell))
            tapped = last if i == tap else tapped
        return last.mean((2, 3)), tapped


class Preprocessed(nn.Module):
    """A cell's inputs, brought to its channels and to the side of the later one."""

    def __init__(self, c0, c1, channels, reduces, halves, affine):
        super().__init__()
        self.reduces = reduces
        self.preprocess0 = FactorizedReduce(c0, channels, affine) if halves else ReLUConvBN(c0, channels, 1,
                                                                                           affine=affine)
        self.preprocess1 = ReLUConvBN(c1, channels, 1, affine=affine)


class Edge(nn.Module):
    """All operations of one edge, and the auxiliary skip if there is one."""

    def __init__(self, ops, channels, stride, partial, auxiliary):
        super().__init__()
        self.partial, self.stride, inner = partial, stride, channels // partial
        self._ops = nn.ModuleList(strided(name, inner, stride, affine=False) for name in ops)
        if auxiliary:
            self.aux_skip = strided("skip_connect", inner, stride, affine=False)

    def forward(self, x: Tensor, terms, passing: Tensor | None) -> Tensor:
        """Sum of ``terms`` (operation, weight; None is exactly 1) on the first C/k channels, beside the others."""
        inner, outer = x.tensor_split([x.shape[1] // self.partial], 1)
        y = reduce(add, (op(inner) if weight is None else weight * op(inner)
                         for op, weight in ((self.at(o), weight) for o, weight in terms)))
        if self.partial == 1:
            return y
        if self.stride == 2:
            outer = F.max_pool2d(outer, 2, ceil_mode=True)
        return shuffle(torch.cat([y, outer if passing is None else passing * outer], 1), self.partial)

    def at(self, column: int) -> nn.Module:
        return self._ops[column] if column < len(self._ops) else self.aux_skip


class SearchCell(Preprocessed):
    """A cell with every operation on every edge."""

    def __init__(self, space, c0, c1, channels, reduces, halves, partial, auxiliary):
        super().__init__(c0, c1, channels, reduces, halves, affine=False)
        rows = space.table[EDGES:] if reduces else space.table[:EDGES]
        sources = [j for i in range(NODES) for j in range(2 + i)]
        self._ops = nn.ModuleList(Edge(ops, channels, 2 if reduces and j < 2 else 1, partial, auxiliary)
                                  for ops, j in zip(rows, sources, strict=True))

    def forward(self, before: Tensor, last: Tensor, terms, passing) -> Tensor:
        """``terms[e]`` and ``passing[e]`` go to edge e of this cell; an edge without terms carries nothing."""
        states, edge = [self.preprocess0(before), self.preprocess1(last)], 0
        for _ in range(NODES):
            arriving = [(edge + j, s) for j, s in enumerate(states) if terms[edge + j]]
            edge += len(states)
            states.append(reduce(add, (self._ops[e](s, terms[e], passing[e]) for e, s in arriving)))
        return torch.cat(states[2:], 1)


class PairSupernet(Skeleton):
    """Weights shared by all architectures of a DARTS ``space``; ``net(x, w)`` says which to use.

    Args: ``channels`` C, ``cells`` L, ``classes``, ``in_channels`` of the images; ``partial`` k: the operations see one
    k-th of the channels, the others pass by, max-pooled where the edge has stride 2 (Xu et al., PC-DARTS, ICLR 2020);
    ``auxiliary``: every edge has a skip beside its operations (Chu et al., DARTS-, ICLR 2021). Batch norms inside
    cells have no affine part. ``layout`` in memory: channels last takes two thirds of the time on a CPU; channels
    first rounds as the published code does. Raises ValueError if k does not divide C.
    """

    def __init__(self, space: CellPairs, channels=16, cells=8, classes=10, in_channels=3, partial=1, auxiliary=False,
                 layout=torch.channels_last):
        if channels % partial:
            raise ValueError(f"operations cannot see one {partial}-th of {channels} channels: take a multiple")
        super().__init__(lambda *shape: SearchCell(space, *shape, partial, auxiliary), channels, cells, classes,
                         in_channels, layout)
        self.space, self.partial, self.auxiliary = space, partial, auxiliary

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``x [B, C, H, W]``; ``w`` may lie on another device, best on the CPU.

        ``w`` is either floating ``[edge, op]``, mixing weights, the normal cell's 14 edges first; or integer
        ``[edge]``, the one operation of each edge, with weight exactly 1, and -1 for an edge that is not taken. The
        two cells may also be stacked: ``[2, 14, op]``, ``[2, 14]``. An operation of weight 0 is not evaluated, and
        an edge with nothing but zeros is left out altogether. Further columns weigh first the auxiliary skip (beta of
        DARTS-; without the column 0), then with partial channels those that pass by (without it 1).

        Raises ValueError if ``w`` has another shape, or if a node has no edge.
        """
        terms, passing = self.terms(w.flatten(0, 1) if w.shape[:2] == (2, EDGES) else w)
        parts = {reduces: (terms[start:start + EDGES], passing[start:start + EDGES])
                 for reduces, start in ((False, 0), (True, EDGES))}
        return self.classifier(self.features(x, lambda cell: parts[cell.reduces])[0])

    def widen(self, partial: int) -> None:
        """Let the operations see one ``partial``-th of the channels, more than before, in place; see ``grow``."""
        times = growth(self.partial, partial)
        for edge in (e for cell in self.cells for e in cell._ops):
            grow(edge, times)
            edge.partial = partial
        self.partial = partial

    def terms(self, w: Tensor) -> tuple[list, list]:
        """Per edge its terms (column, weight), as ``Edge`` wants them, and the weight of what passes by."""
        edges, ops = len(self.space.edges), len(self.space.ops)
        extra = self.auxiliary + (self.partial > 1)
        passing = [None] * edges
        if not w.is_floating_point() and w.shape == (edges,) and -1 <= w.min() and w.max() < ops:
            terms = [[(o, None)] if o >= 0 else [] for o in w.tolist()]
        elif w.is_floating_point() and w.ndim == 2 and len(w) == edges and ops <= w.shape[1] <= ops + extra:
            on = (w.detach() != 0).tolist()         # before w moves: a GPU is not waited for
            single = [row.unbind() for row in w.to(self.classifier.weight.device).unbind()]
            terms = [[(o, row[o]) for o in range(min(len(row), ops + self.auxiliary)) if on[e][o]]
                     for e, row in enumerate(single)]
            if w.shape[1] > ops + self.auxiliary:
                passing = [row[-1] for row in single]
        else:
            raise ValueError(f"w must be floating {edges, ops}, with up to {extra} more columns, or integer {edges,} "
                             f"from -1 to {ops - 1}, got {w.dtype} {tuple(w.shape)}")
        for node in self.space.incoming:
            if not any(terms[e] for e in node):
                raise ValueError(f"node {self.space.edges[node[0]][0]} has no edge with a weight")
        return terms, passing


def growth(before: int, after: int) -> int:
    """How many times the channels become more that operations see. Raises ValueError if they do not."""
    times, rest = divmod(before, after)
    if rest:
        raise ValueError(f"operations that see one {before}-th of the channels cannot grow to one {after}-th")
    return times


@torch.no_grad()
def grow(net: nn.Module, times: int) -> None:
    """Give all convolutions and plain batch norms in ``net`` so many times their channels, in place.

    New channels are copies of the old ones, in order (Chen et al., DrNAS, ICLR 2021, section 3.3). Gradients of the
    weights that grow are dropped.
    """
    deep = {op for m in net.modules() if isinstance(m, Separable) for op in m.op
            if isinstance(op, nn.Conv2d) and op.kernel_size != (1, 1)}     # depthwise: one input channel each
    for op in net.modules():
        if isinstance(op, nn.Conv2d):
            inner = 1 if op in deep else times
            op.weight.grad = None
            op.weight.data = op.weight.repeat(times, inner, 1, 1).contiguous(memory_format=torch.channels_last)
            op.in_channels, op.out_channels = op.in_channels * times, op.out_channels * times
            op.groups *= times // inner
        elif isinstance(op, nn.BatchNorm2d):
            op.running_mean, op.running_var = op.running_mean.repeat(times), op.running_var.repeat(times)
            op.num_features *= times
    for op in net.modules():
        if isinstance(op, FactorizedReduce):                            # its two halves grow one by one
            for name in ("running_mean", "running_var"):
                setattr(op.bn, name, getattr(op.bn, name).view(times, 2, -1).transpose(0, 1).flatten())


class FinalCell(Preprocessed):
    """A cell with the eight operations of one architecture."""

    def __init__(self, genotype, pool_norm, c0, c1, channels, reduces, halves):
        super().__init__(c0, c1, channels, reduces, halves, affine=True)
        pairs = genotype.reduce if reduces else genotype.normal
        self.sources = [source for _, source in pairs]
        self._ops = nn.ModuleList(strided(op, channels, 2 if reduces and source < 2 else 1, True, pool_norm)
                                  for op, source in pairs)
        self.generator = torch.Generator()

    def forward(self, before: Tensor, last: Tensor, drop: float) -> Tensor:
        """``drop``: the probability that an image loses an edge other than an identity, in train mode."""
        states = [self.preprocess0(before), self.preprocess1(last)]
        for node in range(NODES):
            arriving = []
            for k in (2 * node, 2 * node + 1):
                y = self._ops[k](states[self.sources[k]])
                if self.training and drop > 0 and not isinstance(self._ops[k], nn.Identity):
                    y = drop_path(y, drop, self.generator)
                arriving.append(y)
            states.append(arriving[0] + arriving[1])
        return torch.cat(states[2:], 1)


def drop_path(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Each image of ``x [B, C, H, W]`` zeroed with probability ``p``, else divided by 1 - p (Larsson et al., 2017)."""
    kept = torch.rand(len(x), 1, 1, 1, generator=generator, device=generator.device) >= p
    return x / (1 - p) * kept.to(x)


class AuxiliaryHead(nn.Module):
    """A second classifier, on features ``[B, C, 8, 8]`` (to 10 x 10) after the second reduction cell."""

    def __init__(self, channels, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(), nn.AvgPool2d(5, 3, count_include_pad=False), nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 768, 2, bias=False), nn.BatchNorm2d(768), nn.ReLU())
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        if not all(8 <= side <= 10 for side in x.shape[2:]):
            raise ValueError("the auxiliary head wants features of side 8, from images of side 32, got "
                             f"{tuple(x.shape)}")
        return self.classifier(self.features(x).flatten(1))


class PairNetwork(Skeleton):
    """The network of one architecture, all batch norms affine, as trained for the published test errors.

    Args: the two cells; ``channels`` C, ``cells`` L, ``classes``, ``in_channels``; ``auxiliary``: a second classifier
    after the second reduction; ``pool_norm``: poolings are followed by batch norm, as in the published runs of S0, not
    in those of S1 to S4. ``drop_path`` is the probability of the moment, which the training raises.
    """

    def __init__(self, genotype: Genotype, channels=36, cells=20, classes=10, in_channels=3, auxiliary=False,
                 pool_norm=False):
        super().__init__(lambda *shape: FinalCell(genotype, pool_norm, *shape), channels, cells, classes, in_channels)
        self.drop_path, self.tap = 0.0, 2 * cells // 3
        if auxiliary:
            self.auxiliary_head = AuxiliaryHead(self.classifier.in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``x [B, C, H, W]``."""
        return self.classifier(self.features(x, lambda cell: (self.drop_path,))[0])

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[B, classes]``, and those of the auxiliary head."""
        features, tapped = self.features(x, lambda cell: (self.drop_path,), self.tap)
        return self.classifier(features), self.auxiliary_head(tapped)


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state under the names used here: those of S0's code; that of S1 to S4 has others in two places."""
    pool = re.compile(r"(_ops\.\d+\._ops\.\d+)\.1\.")
    return {pool.sub(r"\1.op.1.", name.replace("._aux_skip.", ".aux_skip.")): v for name, v in state.items()}
