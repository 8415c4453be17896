"""Made-up results in the very structure of the NAS-Bench-201 and NATS-Bench files, by the package's own classes."""

import bz2
import pickle

import numpy as np
import torch
from nas_201_api.api_utils import ArchResults, ResultsCount

from nas_lib.spaces import NB201

RUNS = {"cifar10-valid": ("x-valid", "ori-test"), "cifar10": ("ori-test",),
        "cifar100": ("ori-test", "x-valid", "x-test"), "ImageNet16-120": ("ori-test", "x-valid", "x-test")}


def results(index, epochs, seeds, number=float, timed=True) -> dict:
    """State of one architecture's ``ArchResults``, with numbers of the type ``number``."""
    rng = np.random.default_rng([index, epochs])
    found, text = ArchResults(index, str(NB201.strings[index])), str(NB201.strings[index])
    for name, images in RUNS.items():
        for seed in seeds:
            def curve(keys):
                return {k: number(v) for k, v in zip(keys, rng.uniform(5, 95, len(keys)), strict=True)}

            run = ResultsCount(name, None, curve(range(epochs)), curve(range(epochs)), number(index % 7 + 0.25),
                               number(index % 11 + 0.5), {"channel": 16, "arch_str": text}, str(seed), epochs,
                               [number(0.01), number(0.02)])
            run.update_train_info(run.train_acc1es, curve(range(epochs)), run.train_losses,
                                  curve(range(epochs)) if timed else None)
            keys = [f"{i}@{e}" for i in images for e in range(epochs)]
            run.update_eval(curve(keys), curve(keys), curve(keys))
            found.update(name, seed, run)
    return found.state_dict()


def content(indices, number=float, keys=("less", "full"), seeds=(777, 888)) -> dict:
    """What is in a file about the architectures ``indices``; every third has the training seed 999 too."""
    infos = {int(i): {keys[0]: results(i, 12, (111, 777), number),
                      keys[1]: results(i, 200, (*seeds, *([999] if i % 3 == 0 else [])), number)} for i in indices}
    return {"meta_archs": NB201.strings.tolist(), "total_archs": len(NB201), "basestr": "C16-N5",
            "arch2infos": infos, "evaluated_indexes": set(infos)}


def write_old(value, path, zipped=False):
    """As torch wrote files before 1.6 or, ``zipped``, since."""
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def write_nats(value, path):
    with bz2.open(path, "wb") as file:
        pickle.dump(value, file, protocol=4)
    return path


def write_folder(value, path):
    path.mkdir()
    write_nats(value | {"arch2infos": None, "evaluated_indexes": set()}, path / "meta.pickle.pbz2")
    for i, found in value["arch2infos"].items():
        write_nats(found, path / f"{i:06d}.pickle.pbz2")
    return path
