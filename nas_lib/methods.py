"""From the name of a method, or the path of a file that holds one, to the method itself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import nas_lib
from nas_lib.selection import Selector, best_of
from nas_lib.training import Stage1


class UnknownMethod(ValueError):
    """No such method, or no such parameter; the message lists what there is."""


def names(stage: str) -> list[str]:
    """The built-in methods of ``stage`` ("stage1" or "stage2"), by the files that hold them."""
    files = (Path(nas_lib.__file__).parent / stage).glob("[a-z]*.py")
    return sorted(f.stem.replace("_plus", "+").replace("_minus", "-") for f in files)


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


def stage2(name: str) -> Selector:
    """The Stage-2 method ``name``: its own ``select``, or the best of the candidates by its ``score``.

    Raises UnknownMethod.
    """
    module = _module("stage2", name)
    if hasattr(module, "select"):
        return module.select
    if hasattr(module, "score"):
        return best_of(module.score)
    raise UnknownMethod(f"{name} defines neither score nor select, see README, section Add a method")


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
    if name not in names(stage):
        raise UnknownMethod(f"unknown {stage} method {name!r}; built-in: {names(stage)}, or the path "
                            "of a .py file")
    stem = name.removesuffix("+").removesuffix("-")
    stem += {"+": "_plus", "-": "_minus"}.get(name[-1], "")
    return importlib.import_module(f"nas_lib.{stage}.{stem}")
