"""Search spaces as data: edges, operations and integer arrays of architectures. Numpy only."""

from nas_lib.spaces.cell import Space
from nas_lib.spaces.nb201 import NB201

__all__ = ["NB201", "SPACES", "Space"]

SPACES = {NB201.name: NB201}
