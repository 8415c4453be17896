"""Candidate operations and the fixed parts of the NAS-Bench-201 skeleton (Dong & Yang, ICLR 2020).

``groups > 1`` holds that many independent networks side by side in the channels of one: group k
sees only its own inputs and has its own weights, initialised as if it stood alone. ``affine``
gives batch norm a learned scale and shift: off inside a supernet's cells, on everywhere else.
Module names follow the published code, so that its checkpoints keep their names here.
"""

import torch
from torch import Tensor, nn


class ReLUConvBN(nn.Module):
    """ReLU, convolution without bias, batch norm: ``[B, c_in, H, W] -> [B, c_out, H/s, W/s]``."""

    def __init__(self, c_in, c_out, kernel, stride=1, affine=True, groups=1):
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Zero(nn.Module):
    """``none``: no edge. Gives zeros that keep the graph, with zero gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


class Reduction(nn.Module):
    """Residual block that halves the side and widens: two convolutions beside pool and 1x1."""

    def __init__(self, c_in, c_out, groups=1):
        super().__init__()
        self.conv_a = ReLUConvBN(c_in, c_out, 3, stride=2, groups=groups)
        self.conv_b = ReLUConvBN(c_out, c_out, 3, groups=groups)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(c_in, c_out, 1, groups=groups, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.conv_b(self.conv_a(x))


def candidate(name: str, channels: int, affine: bool, groups: int = 1) -> nn.Module:
    """The operation called ``name`` at ``channels`` channels. Raises KeyError if there is none."""
    makers = {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": lambda: ReLUConvBN(channels, channels, 1, affine=affine, groups=groups),
        "nor_conv_3x3": lambda: ReLUConvBN(channels, channels, 3, affine=affine, groups=groups),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    }
    return makers[name]()


def stem(in_channels: int, channels: int, groups: int = 1) -> nn.Sequential:
    """3x3 convolution and batch norm, no ReLU: images to the first feature maps."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )


@torch.no_grad()
def follow(norms: list[nn.BatchNorm2d], means: list[Tensor], variances: list[Tensor]) -> None:
    """Move running statistics towards a batch's means and unbiased variances as train mode does, in a few calls."""
    if not norms:
        return
    stored = [m._buffers for m in norms]                                  # attributes would take longer than the work
    counts = [b["num_batches_tracked"] for b in stored]
    torch._foreach_add_(counts, 1)
    rates = [1 / n.item() if m.momentum is None else m.momentum for m, n in zip(norms, counts, strict=True)]
    for rate in set(rates):
        chosen = [k for k, r in enumerate(rates) if r == rate]
        torch._foreach_lerp_([stored[k][name] for name in ("running_mean", "running_var") for k in chosen],
                             [batch[k] for batch in (means, variances) for k in chosen], rate)
