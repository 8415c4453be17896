"""Candidate operations and the fixed parts of the NAS-Bench-201 skeleton (Dong & Yang, ICLR 2020), and the
operations of the DARTS spaces (Liu et al., ICLR 2019; noise: Zela et al., RobustDARTS, ICLR 2020).

``groups > 1`` holds that many independent networks side by side in the channels of one: group k
sees only its own inputs and has its own weights, initialised as if it stood alone. ``affine``
gives batch norm a learned scale and shift: off inside a supernet's cells, on everywhere else.
Module names follow the published code, so that its checkpoints keep their names here.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_lib.protocol import PRECISIONS

LARGE = 2048        # values C x H x W of a map beyond which PyTorch's layers are worth an own way on a CPU


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

    def __init__(self, stride=1):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::self.stride, ::self.stride] * 0


class AveragePool(nn.AvgPool2d):
    """3x3 average of those values that are inside the map, stride 1.

    Large maps that lie channels last on a CPU go through a depthwise convolution: PyTorch's pooling is not vectorised
    there, and takes two to three times as long, forward and backward.
    """

    def __init__(self):
        super().__init__(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        if (x.device.type != "cpu" or height * width < 256 or channels * height * width <= LARGE
                or not x.is_contiguous(memory_format=torch.channels_last)):
            return super().forward(x)
        sides = [F.avg_pool1d(torch.full((1, n), 3.0, dtype=torch.float64), 3, 1, 1)[0] for n in (height, width)]      # how many are inside
        share = torch.outer(*sides).reciprocal().to(x.dtype)
        return F.conv2d(x, x.new_ones(channels, 1, 3, 3), padding=1, groups=channels) * share


class Noise(nn.Module):
    """``noise``: fresh N(0, 1) of the size of its (strided) input, in train and eval mode, without gradient."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride
        self.generator = torch.Generator()          # that of the whole network: see ``draw_from``

    def forward(self, x: Tensor) -> Tensor:
        shape = x[:, :, ::self.stride, ::self.stride].shape
        drawn = torch.randn(shape, generator=self.generator, device=self.generator.device, dtype=x.dtype)
        return drawn.to(x.device)


def draw_from(net: nn.Module, generator: torch.Generator) -> None:
    """Let everything random inside ``net`` (noise, dropped paths) draw from ``generator`` from now on."""
    for m in net.modules():
        if hasattr(m, "generator"):
            m.generator = generator


class FactorizedReduce(nn.Module):
    """ReLU, two 1x1 convolutions that see every other place, the second one place further, batch norm.

    ``[B, c_in, H, W] -> [B, c_out, ceil(H/2), ceil(W/2)]``, c_out even; an odd side is continued by a row of zeros.
    """

    def __init__(self, c_in, c_out, affine=True):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        # Every other place is taken here and not by a stride: on a CPU the gradient of a 1x1 convolution with a stride
        # and few channels writes outside its memory (torch 2.14, channels last).
        x = F.pad(self.relu(x), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return self.bn(torch.cat([self.conv_1(x[:, :, ::2, ::2]), self.conv_2(x[:, :, 1::2, 1::2])], 1))


class Separable(nn.Module):
    """``repeat`` times ReLU, depthwise convolution, pointwise convolution, batch norm; the first has the stride."""

    def __init__(self, channels, kernel, stride, dilation, repeat, affine):
        super().__init__()
        parts, padding = [], dilation * (kernel - 1) // 2
        for k in range(repeat):
            parts += [
                nn.ReLU(),
                nn.Conv2d(channels, channels, kernel, 1 if k else stride, padding, dilation, channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels, affine=affine),
            ]
        self.op = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class PoolBN(nn.Module):
    """A pooling and batch norm."""

    def __init__(self, pool, channels, affine):
        super().__init__()
        self.op = nn.Sequential(pool, nn.BatchNorm2d(channels, affine=affine))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


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
        "avg_pool_3x3": AveragePool,
    }
    return makers[name]()


def strided(name: str, channels: int, stride: int, affine: bool, pool_norm: bool = True) -> nn.Module:
    """The operation of the DARTS spaces called ``name``, ``[B, C, H, W] -> [B, C, H/s, W/s]``.

    ``pool_norm``: poolings are followed by a batch norm. Raises KeyError if there is no such operation.
    """
    def pool(made):
        return PoolBN(made, channels, affine) if pool_norm else made

    makers = {
        "none": lambda: Zero(stride),
        "noise": lambda: Noise(stride),
        "max_pool_3x3": lambda: pool(nn.MaxPool2d(3, stride, 1)),
        "avg_pool_3x3": lambda: pool(nn.AvgPool2d(3, stride, 1, count_include_pad=False)),
        "skip_connect": lambda: nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine),
        "sep_conv_3x3": lambda: Separable(channels, 3, stride, 1, 2, affine),
        "sep_conv_5x5": lambda: Separable(channels, 5, stride, 1, 2, affine),
        "dil_conv_3x3": lambda: Separable(channels, 3, stride, 2, 1, affine),
        "dil_conv_5x5": lambda: Separable(channels, 5, stride, 2, 1, affine),
    }
    return makers[name]()


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the groups of channels: ``g C/k + c`` goes to ``c k + g``, so that the next operations see others."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def stem(in_channels: int, channels: int, groups: int = 1) -> nn.Sequential:
    """3x3 convolution and batch norm, no ReLU: images to the first feature maps."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )


def computing(precision: str, device):
    """Where convolutions and matrix products are computed in ``precision``: ``float32``, or ``bfloat16`` by autocast."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}: it can be {', '.join(PRECISIONS)}")
    return nullcontext() if precision == "float32" else torch.autocast(torch.device(device).type, torch.bfloat16)


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
