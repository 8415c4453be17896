"""Zero-cost scores of architectures under given weights (Abdelfattah et al., ICLR 2021).

A score belongs to one architecture ``[edge]`` on a supernet, whose chosen operations have weight exactly 1, and
one batch of B images. theta are the weights of all convolutions and linear layers, L is the mean cross-entropy
and g = dL/dtheta; a layer that the architecture does not use has no gradient and counts 0. Sums run over all
layers and weights. No score changes the supernet: all work is done on copies.

=========== ============================================================================================
synflow     ``sum |theta dR/dtheta|``, R the sum of the logits for one input of ones, every tensor replaced by
            its absolute value, batch norm by the identity, in float64 (Tanaka et al., NeurIPS 2020)
synflow_bn  the same with batch norm in place
jacob_cov   ``-sum_i log(v_i + k) + 1 / (v_i + k)``, k = 1e-5, v the eigenvalues of the correlation matrix
            ``[B, B]`` of the gradients ``[B, C*H*W]`` of the summed logits by the images (Mellor et al., ICML 2021)
grad_norm   ``sum_layer |g|_2``
snip        ``sum |theta g|`` (Lee et al., ICLR 2019)
plain       ``sum theta g``
grasp       ``-sum theta (H g)``, H the Hessian of L (Wang et al., ICLR 2020)
fisher      ``sum_c n_c/2 mean_B (sum_places a dL/da)^2`` over output channels c with n_c weights, a the output of
            a layer (Turner et al., ICLR 2020)
l2_norm     ``sum_layer |theta|_2`` over the layers whose g is not 0
naswot      ``log det K``, ``K_ij = N - Hamming(c_i, c_j)``, c_i ``[N]`` the on/off code of all ReLUs that image i
            passes (Mellor et al., ICML 2021)
zen         ``log mean_B |f(x + 0.01 e) - f(x)|_2 + sum_norm log sqrt(mean_c var_c)``, e ~ N(0, 1), f the maps before
            the global pool, var the variances of the batch in each batch norm whose input is not constant
            (Lin et al., ICCV 2021; with the given weights and images)
=========== ============================================================================================

Batch norm is in the mode in which the supernet is found; fisher and zen always use the batch's statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_lib.networks import PairNetwork, PairSupernet
from nas_lib.ops import draw_from
from nas_lib.spaces import Genotype
from nas_lib.supernet import Cell, Supernet

FLOWS = ("synflow", "synflow_bn")
BATCH_STATISTICS = ("fisher", "zen")                    # in train mode, however the supernet is found
WATCHED = ("grasp", "fisher", "naswot", "zen")          # look into layers, or differentiate twice


def score(supernet: Supernet, arch, images: Tensor, labels: Tensor, names: Iterable[str]) -> dict[str, float]:
    """The measures ``names`` of one architecture on one batch.

    ``arch [edge]`` operation indices, ``images [B, C, H, W]``, ``labels [B]``, on the supernet's device. What
    several measures need is computed once. NaN where a measure is not defined (no path from input to output,
    two images with one code). Raises ValueError for an unknown name.
    """
    return Scorer(supernet, names)(arch, images, labels)


def scores(supernet: Supernet, archs, images: Tensor, labels: Tensor | None, names: Iterable[str],
           training: bool | None = None) -> dict[str, np.ndarray]:
    """``score`` of ``archs [n, edge]`` on the same batch: every measure ``[n]``. ``training`` as in ``Scorer``."""
    scorer = Scorer(supernet, names, training)
    rows = [scorer(arch, images, labels) for arch in np.atleast_2d(archs)]
    return {name: np.array([row[name] for row in rows]) for name in scorer.names}


def synflow(net: Supernet, archs: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Synaptic flow of ``archs [n, edge]`` for images of ``shape`` (C, H, W): no image is needed."""
    return scores(net, archs, torch.ones(1, *shape), None, ("synflow",))["synflow"]


def jacob_cov(net: Supernet, archs: np.ndarray, images: Tensor) -> np.ndarray:
    """jacob_cov of ``archs [n, edge]`` with batch norm in train mode: no label is needed."""
    return scores(net, archs, images, None, ("jacob_cov",), training=True)["jacob_cov"]


def size(net: Supernet, archs, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and multiply-accumulates per image of ``archs [n, edge]`` as stand-alone networks, two ``[n]``.

    ``shape`` (C, H, W) of an image. Only live edges count; every batch norm has two parameters per channel.
    """
    if not net.space.enumerable:
        space, own = net.space, (net.stem[0].out_channels // 3, len(net.cells), net.classifier.out_features)
        found = [network_size(space.genotype(a), shape, *own, space.pool_norm) for a in np.atleast_2d(archs)]
        return tuple(np.array(found).T)
    cells = sum(isinstance(cell, Cell) for cell in net.cells) // 3
    with torch.device("meta"):                                              # shapes only, nothing is computed
        net = Supernet(net.space, net.stem[0].out_channels, cells, net.classifier.out_features, shape[0])
    edges, ops = len(net.space.edges), len(net.space.ops)
    costs, place = np.zeros((edges + 1, ops, 2), dtype=np.int64), {}        # the last row: what all have
    for cell in net.cells:
        for e, candidates in enumerate(cell.edges.values() if isinstance(cell, Cell) else ()):
            place |= {m: (e, o) for o, op in enumerate(candidates) for m in op.modules()}

    for module, own in _costs(net, shape, torch.ones(edges, ops)).items():
        costs[place.get(module, (edges, 0))] += own
    archs = np.atleast_2d(archs)
    live = net.space.live(archs)[..., None]                                 # n, edge, 1
    total = costs[-1, 0] + (live * costs[np.arange(edges), archs]).sum(1)   # n, 2
    return total[:, 0], total[:, 1]


def network_size(cells: Genotype, shape, channels: int, number: int, classes: int, pool_norm: bool) -> tuple[int, int]:
    """``size`` of one ``PairNetwork`` of so many cells, without the auxiliary head."""
    with torch.device("meta"):
        net = PairNetwork(cells, channels, number, classes, shape[0], pool_norm=pool_norm)
    return tuple(np.sum(list(_costs(net, shape).values()), 0).tolist())


@torch.no_grad()
def _costs(net: nn.Module, shape, *w) -> dict[nn.Module, np.ndarray]:
    """Per layer of a network on the meta device: parameters and multiply-accumulates in a pass ``net(x, *w)``."""
    found = {}

    def count(module, inputs, output):
        norm = isinstance(module, nn.BatchNorm2d)
        own = 2 * module.num_features if norm else sum(p.numel() for p in module.parameters())
        found[module] = np.array([own, 0 if norm else module.weight[0].numel() * output[0].numel()])

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.register_forward_hook(count)
    net.eval()(torch.empty(1, *shape, device="meta"), *w)
    return found


class Scorer:
    """Scores one architecture after another, on copies of a supernet that are made once.

    ``training``: whether batch norm uses the batch's statistics; None: the mode in which the supernet is.
    """

    def __init__(self, supernet: Supernet, names: Iterable[str], training: bool | None = None):
        self.names = tuple(names)
        unknown = [name for name in self.names if name not in NAMES]
        if unknown:
            raise ValueError(f"unknown measure {', '.join(map(repr, unknown))}: there are {', '.join(NAMES)}")
        self.supernet = supernet
        self.training = supernet.training if training is None else training
        self._copies: dict = {}

    @torch.enable_grad()
    def __call__(self, arch, images: Tensor, labels: Tensor | None) -> dict[str, float]:
        """The measures of ``arch [edge]`` on ``images [B, C, H, W]`` with ``labels [B]``."""
        arch = torch.tensor([int(o) for o in arch])
        passes, found = {}, {}
        for name in self.names:
            if name in FLOWS:
                found[name] = self._flow(name, arch, images.shape[1:])
                continue
            mode = self.training or name in BATCH_STATISTICS
            if mode not in passes:
                passes[mode] = _Pass(self._copy(mode), arch, images, labels, "grasp" in self.names)
            found[name] = MEASURES[name](passes[mode])
        return found

    def _copy(self, mode) -> _Copy:
        if mode not in self._copies:
            watched = not set(WATCHED).isdisjoint(self.names)
            self._copies[mode] = _Copy(copy.deepcopy(self.supernet).train(mode), watched)
        return self._copies[mode]

    def _flow(self, name, arch, shape) -> float:
        if name not in self._copies:
            net = copy.deepcopy(self.supernet).double().train(self.training)
            with torch.no_grad():
                for tensor in net.state_dict().values():
                    tensor.abs_()
            for module in net.modules() if name == "synflow" else ():
                if isinstance(module, nn.BatchNorm2d):
                    module.forward = lambda x: x
            self._copies[name] = _Copy(net, watched=False)
        copied = self._copies[name]
        ones = copied.weights[0].new_ones(1, *shape)
        flow = torch.autograd.grad(copied(ones, arch)[0].sum(), copied.weights, allow_unused=True)
        return _total((w * g).abs().sum() for w, g in zip(copied.weights, flow, strict=True) if g is not None)


class _Copy:
    """A copy of a supernet; ``watched``, it keeps what passes its layers, ReLUs and batch norms."""

    def __init__(self, net: Supernet, watched: bool):
        self.net = net.requires_grad_(True)
        self.weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        self.layers, self.rectified, self.normalised, self.maps = [], [], [], None
        if not watched:
            return
        net.compiled = False
        last = net.cells[-1] if isinstance(net, PairSupernet) else net.lastact
        last.register_forward_hook(lambda m, inputs, out: setattr(self, "maps", out))
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda m, _, out: self.layers.append((m.weight, out)))
            elif isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda m, _, out: self.rectified.append(out))
            elif isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda m, inputs, _: self.normalised.append(inputs[0]))

    def __call__(self, x: Tensor, arch: Tensor):
        """Logits; layers' weights and outputs, ReLUs' outputs and batch norms' inputs, in the order of the pass; the maps
        before the global pool. Noise, where there is any, is the same in every pass."""
        self.layers, self.rectified, self.normalised, self.maps = [], [], [], None
        draw_from(self.net, torch.Generator(x.device).manual_seed(0))
        return self.net(x, arch), self.layers, self.rectified, self.normalised, self.maps


class _Pass:
    """One architecture on one batch: everything is computed when first asked for, and once."""

    def __init__(self, copied: _Copy, arch: Tensor, images: Tensor, labels: Tensor | None, twice: bool):
        self.copied, self.arch, self.labels, self.twice = copied, arch, labels, twice
        self.weights = copied.weights
        self.images = images.detach().clone().requires_grad_()
        self.logits, self.layers, self.rectified, self.normalised, self.maps = copied(self.images, arch)

    @cached_property
    def gradients(self) -> tuple[list, list]:
        """dL/dtheta of all weights, and dL/da of the outputs of all layers; None where there is none."""
        loss = F.cross_entropy(self.logits, self.labels)
        found = torch.autograd.grad(loss, [*self.weights, *(a for _, a in self.layers)], retain_graph=True,
                                    create_graph=self.twice, allow_unused=True)
        return found[:len(self.weights)], found[len(self.weights):]

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(theta, g) of the layers that have a gradient, in float64."""
        return [(w.detach().double(), g.detach().double())
                for w, g in zip(self.weights, self.gradients[0], strict=True) if g is not None]


def _total(terms) -> float:
    """Sum of scalar tensors."""
    terms = list(terms)
    return torch.stack(terms).sum(dtype=torch.float64).item() if terms else 0.0


def _jacob_cov(run: _Pass, k: float = 1e-5) -> float:
    (jacobian,) = torch.autograd.grad(run.logits.sum(), run.images, retain_graph=True)
    jacobian = jacobian.flatten(1).cpu().double().numpy()
    if (jacobian.std(1) == 0).any() or not np.isfinite(jacobian).all():
        return float("nan")
    v = np.linalg.eigvalsh(np.corrcoef(jacobian))
    with np.errstate(invalid="ignore"):
        return float(-np.sum(np.log(v + k) + 1 / (v + k)))


def _grasp(run: _Pass) -> float:
    known = [(w, g) for w, g in zip(run.weights, run.gradients[0], strict=True) if g is not None]
    product = sum((g.detach() * g).sum() for _, g in known)                # its gradient is H g
    curved = torch.autograd.grad(product, [w for w, _ in known], retain_graph=True, allow_unused=True)
    return -_total((w.detach().double() * h).sum() for (w, _), h in zip(known, curved, strict=True) if h is not None)


def _fisher(run: _Pass) -> float:
    terms = []
    for (weight, a), slope in zip(run.layers, run.gradients[1], strict=True):
        if slope is not None:
            change = (a.detach() * slope.detach()).double().flatten(2).sum(-1) if a.ndim > 2 else (a * slope).detach()
            terms.append(weight[0].numel() * change.square().mean(0).sum().double() / 2)
    return _total(terms)


def _naswot(run: _Pass) -> float:
    kernel = 0.0
    for out in run.rectified:
        code = (out.detach().flatten(1) > 0).double()                      # B, N of this layer
        kernel = kernel + code @ code.T + (1 - code) @ (1 - code).T
    sign, logdet = np.linalg.slogdet(kernel.cpu().numpy())
    return float(logdet) if sign > 0 else float("nan")


@torch.no_grad()
def _zen(run: _Pass) -> float:
    noise = torch.randn(run.images.shape, generator=torch.Generator().manual_seed(0))
    *_, maps = run.copied(run.images + 0.01 * noise.to(run.images), run.arch)
    change = (maps - run.maps).double().flatten(1).norm(dim=1).mean()
    if not change > 0:
        return float("nan")
    variances = [x.double().var((0, 2, 3), correction=0).mean() for x in run.normalised]
    return _total([change.log(), *(v.log() / 2 for v in variances if v > 0)])


MEASURES = {
    "jacob_cov": _jacob_cov,
    "grad_norm": lambda run: _total(g.norm() for _, g in run.pairs),
    "snip": lambda run: _total((w * g).abs().sum() for w, g in run.pairs),
    "plain": lambda run: _total((w * g).sum() for w, g in run.pairs),
    "grasp": _grasp,
    "fisher": _fisher,
    "l2_norm": lambda run: _total(w.norm() for w, g in run.pairs if g.any()),
    "naswot": _naswot,
    "zen": _zen,
}
NAMES = FLOWS + tuple(MEASURES)
