"""The gradient of alpha through one step of the weights (Liu, Simonyan & Yang, DARTS, ICLR 2019, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def unrolled_gradient(alpha: Tensor, sgd: torch.optim.SGD, train_loss: Callable[[], Tensor],
                      valid_loss: Callable[[], Tensor]) -> Tensor:
    """d L_val(w', alpha) / d alpha, of the shape of ``alpha``, by finite differences (algorithms, section 3).

    ``w' = w - lr (mu buf + dL_train/dw + decay w)`` is the step that ``sgd`` would take next, unclipped. With
    ``v = dL_val/dw'``, ``w+- = w +- eps v`` and ``eps = 0.01 / |v|`` the gradient is ``dL_val/dalpha - lr
    (dL_train(w+)/dalpha - dL_train(w-)/dalpha) / (2 eps)``. Both losses are computed anew at each call, at the
    weights of that moment, on images that stay the same. The weights end as they were, to the bit.
    """
    group = sgd.param_groups[0]
    weights, lr = group["params"], group["lr"]
    kept = [w.detach().clone() for w in weights]
    gradients = _gradients(train_loss(), weights)
    with torch.no_grad():
        for w, g in zip(weights, gradients, strict=True):
            buffer = sgd.state.get(w, {}).get("momentum_buffer", 0.0)
            w -= lr * (group["momentum"] * buffer + g + group["weight_decay"] * w)
    direct, *v = _gradients(valid_loss(), [alpha, *weights])
    eps = 0.01 / torch.stack([g.norm() for g in v]).norm()
    sides = []
    for sign in (1, -1):
        _put(weights, [w + sign * eps * g for w, g in zip(kept, v, strict=True)])
        sides.append(_gradients(train_loss(), [alpha])[0])
    _put(weights, kept)
    return direct - lr * (sides[0] - sides[1]) / (2 * eps.to(alpha.device))


def _gradients(loss: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs, materialize_grads=True)


@torch.no_grad()
def _put(weights: list[Tensor], values: list[Tensor]) -> None:
    for w, value in zip(weights, values, strict=True):
        w.copy_(value)
