"""From the name of a method, or the path of a file that holds one, to the method itself."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import nas_lib
from nas_lib.selection import Selector, best_of
from nas_lib.training import Stage1


class UnknownMethod(ValueError):
    """No such method, or no such parameter; the message lists what there is."""


def names(stage: str) -> list[str]:
    """The built-in methods of ``stage`` ("stage1" or "stage2"), by the files that hold them."""
    return sorted(files(stage))


def files(stage: str) -> dict[str, str]:
    """Name -> file stem: ``rsps_plus.py`` is "rsps+", ``darts_minus.py`` "darts-", ``pc_darts.py`` "pc-darts".

    Scores of Stage 2 keep the underscore that their papers write.
    """
    found = {}
    for file in (Path(nas_lib.__file__).parent / stage).glob("[a-z]*.py"):
        stem, _, sign = file.stem.rpartition("_")
        mark = {"plus": "+", "minus": "-"}.get(sign, "")
        name = stem + mark if mark else file.stem
        found[name.replace("_", "-") if stage == "stage1" else name] = file.stem
    return found


def stage1(name: str, **hyper) -> Stage1:
    """The Stage-1 method ``name`` with hyper-parameters ``hyper``. Raises UnknownMethod."""
    module = _module("stage1", name)
    if not hasattr(module, "Method"):
        raise UnknownMethod(f"{name} defines no Method: a Stage-1 file holds a frozen dataclass "
                            "Method(Stage1), see README, section Add a method")
    try:
        return module.Method(**hyper)
    except TypeError as error:
        known = list(module.Method.__dataclass_fields__)
        raise UnknownMethod(f"{name}: {error}; its parameters are {known}") from None


def stage2(name: str, **options) -> Selector:
    """The Stage-2 method ``name``: its own ``select``, or the best of the candidates by its ``score``.

    ``options`` are its arguments beyond those of every method. An ``informed`` one also takes ``truth=``, the
    benchmark's accuracies ``[arch]``, one that ``resumes`` also ``folder=``, where it keeps its state. Raises
    UnknownMethod.
    """
    module = _module("stage2", name)
    function = getattr(module, "select", None) or getattr(module, "score", None)
    if function is None:
        raise UnknownMethod(f"{name} defines neither score nor select, see README, section Add a method")
    known = [p for p in list(inspect.signature(function).parameters)[4:] if p != "truth"]
    if not options.keys() <= set(known):
        raise UnknownMethod(f"{name}: unknown option {', '.join(options.keys() - set(known))}; it has {known}")
    selector = partial(function, **options) if hasattr(module, "select") else best_of(function, **options)
    selector.informed, selector.resumes = getattr(module, "informed", False), "folder" in known
    return selector


def _module(stage: str, name: str) -> ModuleType:
    if name.endswith(".py"):
        file = Path(name)
        if not file.is_file():
            raise UnknownMethod(f"no file {file.resolve()}; built-in {stage} methods: {names(stage)}")
        spec = importlib.util.spec_from_file_location(f"nas_lib.own.{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module     # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    built_in = files(stage)
    if name not in built_in:
        raise UnknownMethod(f"unknown {stage} method {name!r}; built-in: {names(stage)}, or the path "
                            "of a .py file")
    return importlib.import_module(f"nas_lib.{stage}.{built_in[name]}")
