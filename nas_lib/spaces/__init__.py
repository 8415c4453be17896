"""Search spaces as data: edges, operations and integer arrays of architectures. Numpy only."""

from nas_lib.spaces.cell import Space
from nas_lib.spaces.darts import S0, S1, S2, S3, S4, CellPairs
from nas_lib.spaces.genotype import Genotype
from nas_lib.spaces.nb201 import NB201

__all__ = ["NB201", "S0", "S1", "S2", "S3", "S4", "SPACES", "CellPairs", "Genotype", "SearchSpace", "Space"]

SearchSpace = Space | CellPairs
SPACES = {space.name: space for space in (NB201, S0, S1, S2, S3, S4)}
