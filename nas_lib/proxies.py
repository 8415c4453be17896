"""Zero-cost scores of architectures under given weights (Abdelfattah et al., ICLR 2021).

Each score belongs to one architecture ``[edge]`` on a supernet: the chosen operation of every edge has
weight exactly 1. "Weights" are those of all convolutions and linear layers; what the architecture does
not use has no gradient and counts 0.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from nas_lib.supernet import Supernet


def synflow(net: Supernet, archs: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Synaptic flow ``sum |theta * dR/dtheta|`` of ``archs [n, edge]`` (Tanaka et al., NeurIPS 2020).

    R is the sum of the logits for one input of ones ``[1, C, H, W]``, with every tensor of the network
    replaced by its absolute value, every batch norm by the identity, in float64.
    """
    net = copy.deepcopy(net).double()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.abs_()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = lambda x: x
    weights = _weights(net)
    device = weights[0].device
    ones = torch.ones((1, *shape), dtype=torch.float64, device=device)
    scores = []
    for arch in archs:
        flow = net(ones, torch.as_tensor(np.asarray(arch, dtype=np.int64))).sum()
        gradients = torch.autograd.grad(flow, weights, allow_unused=True)
        scores.append(sum((w * g).abs().sum() for w, g in zip(weights, gradients, strict=True)
                          if g is not None).item())
    return np.array(scores)


def jacob_cov(net: Supernet, archs: np.ndarray, images: Tensor) -> np.ndarray:
    """How differently a network responds to different images (Mellor et al., ICML 2021).

    J ``[B, C*H*W]`` is the gradient of the summed logits of each image by that image, v the eigenvalues
    of its correlation matrix ``[B, B]``; the score is ``-sum log(v + k) + 1 / (v + k)``, k = 1e-5. Batch
    norm in train mode, for every architecture alike. NaN where an image leaves no gradient.
    """
    net = copy.deepcopy(net).train()
    scores = []
    for arch in archs:
        x = images.clone().requires_grad_()
        y = net(x, torch.as_tensor(np.asarray(arch, dtype=np.int64)))
        (jacobian,) = torch.autograd.grad(y.sum(), x)
        scores.append(_jacob_score(jacobian.flatten(1).cpu().double().numpy()))
    return np.array(scores)


def _jacob_score(jacobian: np.ndarray, k: float = 1e-5) -> float:
    if (jacobian.std(1) == 0).any() or not np.isfinite(jacobian).all():
        return float("nan")
    v = np.linalg.eigvalsh(np.corrcoef(jacobian))
    return float(-np.sum(np.log(v + k) + 1 / (v + k)))


def _weights(net: nn.Module) -> list[Tensor]:
    return [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
