"""The sweep over the whole space as the published code makes it, for the flags D4 and D5 of the protocol.

Slower than ``ranking.rank``: where every architecture sees images of its own, none shares a result with another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from nas_lib.checkpoint import Checkpoint
from nas_lib.data import Data
from nas_lib.ranking import Layers, logits
from nas_lib.sampling import draw
from nas_lib.supernet import Supernet


@torch.no_grad()
def published(net: Supernet, data: Data, images: int, fresh: bool, log_prob: np.ndarray | None = None, bn="running",
              seed=0, batch=64, block=125, folder: Path | None = None, progress=True,
              sample: np.ndarray | None = None) -> xr.Dataset:
    """Accuracy ``score(arch)`` of every architecture, or of ``sample [n]`` only, on ``images`` images of the validation half.

    ``fresh``: every architecture has images of its own, drawn without replacement and augmented (D5); else all see
    the same. With a law ``log_prob [arch]`` every batch is answered by another architecture, drawn from it (D4).
    ``bn`` is ``running`` or ``batch``. Random numbers belong to ``seed`` and the block of architectures, so that a
    stopped sweep, kept in ``folder``, goes on with the same result. Raises ValueError for another rule.
    """
    if bn not in ("running", "batch"):
        raise ValueError(f"rank_bn = {bn!r} does not go with fresh_images or random_gdas: set it to running or batch")
    if net.partial > 1:
        raise ValueError("fresh_images and random_gdas are not there for partial channels: switch the flags off")
    space, layers = net.space, Layers(bn)
    (stored, labels), (x, y) = data.halves()[1], data.fixed("valid half", first=images)
    sample = np.arange(len(space)) if sample is None else sample
    score = np.full(len(sample), np.nan)
    kept = Checkpoint(folder and Path(folder) / "sweep.pt", f"published sweep of {space.name}, {images} images, "
                      f"fresh {fresh}, own law {log_prob is not None}, {bn}")

    def take(state):
        score[:] = state["score"].numpy()
        return range(len(sample) + 1).index(state["done"])

    done = kept.load(take) or 0
    bar = tqdm(total=len(sample), initial=done, desc="rank (published)", unit="cell", disable=not progress)
    for start in range(done, len(sample), block):
        archs = sample[start:start + block]
        if fresh:
            number = seed * len(space) + start
            pixels = torch.Generator(data.device).manual_seed(number)
            choices = torch.Generator().manual_seed(number)
            rows = torch.rand(len(archs), len(labels), generator=choices).argsort(1)[:, :images].to(labels.device)
            x, y = data.augment(stored[rows.flatten()], pixels).unflatten(0, rows.shape), labels[rows]
        right, along = 0, x.ndim - 4
        for k, (xb, yb) in enumerate(zip(x.split(batch, along), y.split(batch, along), strict=True)):
            asked = archs if log_prob is None else draw(log_prob, len(archs), [start, k, seed])
            right += (logits(net, space.archs[asked], xb, layers).argmax(-1) == yb).sum(1)
        score[start:start + len(archs)] = 100 * right.cpu().numpy() / images
        bar.update(len(archs))
        done = start + len(archs)
        kept.keep({"done": done, "score": torch.from_numpy(score)}, done == len(sample))
    bar.close()
    return xr.Dataset({"score": ("arch", score.astype(np.float32))}, coords={"arch": space.strings[sample]},
                      attrs={"bn": bn, "images": images})
