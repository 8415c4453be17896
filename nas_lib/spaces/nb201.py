"""NAS-Bench-201: 4 nodes, 6 edges, 5 operations, 15,625 cells (Dong & Yang, ICLR 2020).

The benchmark's index is a fixed shuffle of the enumeration, so no data file is needed to go from
an architecture to its row in a table of results.
"""

from nas_lib.spaces.cell import Space

NB201 = Space(
    name="nb201",
    nodes=4,
    ops=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
    order_seed=88,
)
