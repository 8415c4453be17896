"""The published cells of "Picking up the pieces": what its methods selected in S0 on CIFAR-10 and in S1 to S4.

From ``two_stage/DARTS-space/genotypes.py`` (S0: Stage 1, seed and Stage 2 of each; 50 epochs) and
``case_study/sota/cnn/genotypes.py`` (S1 to S4: ``darts`` and ``dartsm``, DARTS-, by their strongest edges; with ``pt``
by perturbation; ``blankm`` with alpha fixed; the 2 marks a second set) of github.com/anon-submit-ml/picking-up-pieces.
"""

_TEXT = """\
S0 darts     10 prune     s0 s1 s2 s1 s1 s2 s2 s1 / s1 s0 S1 D2 D2 S3 S3 S4
S0 darts     10 valid     D0 D1 s0 D1 s1 s2 m3 s4 / D0 k1 S1 S2 s1 d2 a1 m4
S0 darts     10 synflow   s0 s1 s1 s2 s1 D2 m2 k4 / m0 d1 a1 d2 D0 S2 k0 a3
S0 darts     10 jacob_cov s0 D1 D0 d2 s1 k3 k0 s4 / a0 D1 d1 S2 D0 D3 m1 S3
S0 darts     10 perturb   s0 s1 s0 s2 s0 s3 m3 s4 / S0 a1 D1 m2 S0 D2 a1 k4
S0 darts     11 prune     s1 s0 s0 s1 s0 s1 s2 s1 / m1 m0 k2 m0 D3 s0 D4 S3
S0 darts     11 valid     s0 s1 s0 D2 s0 s1 s1 s2 / m0 d1 k0 m1 S0 S2 S0 a1
S0 darts     11 synflow   d0 s1 S1 S2 d1 d3 k1 d4 / s0 S1 S1 m2 S0 a3 D0 S1
S0 darts     11 jacob_cov s0 S1 S1 S2 s0 d2 d0 s3 / s0 D1 m0 m1 s0 a1 s3 D4
S0 darts     11 perturb   s0 s1 s0 S2 s0 s3 s0 m3 / s0 a1 k0 D2 D2 k3 s0 S4
S0 darts     12 prune     s0 s1 s1 s2 s1 d3 s3 s1 / S1 k0 D2 a1 s0 D2 S4 S3
S0 darts     12 valid     S0 s1 d0 s1 s1 d3 d1 D2 / S0 a1 s1 D2 k1 s2 D2 k4
S0 darts     12 synflow   s0 d1 S1 m2 s1 k3 d2 D4 / D0 k1 s1 d2 D1 s2 s3 d4
S0 darts     12 jacob_cov m0 d1 d1 s2 D0 S3 S0 S4 / d0 k1 a1 S2 D2 k3 a1 d2
S0 darts     12 perturb   s0 s1 s1 s2 S0 d3 S0 s4 / S0 m1 s0 m2 S0 a1 m0 k4
S0 darts-    10 prune     s1 s0 s0 s1 d3 d2 k1 k0 / s1 m0 D2 s1 D2 k3 k3 k4
S0 darts-    10 valid     S0 s1 s1 k2 d0 s3 D1 s4 / a0 s1 D0 d1 k0 a2 k3 D4
S0 darts-    10 synflow   s0 k1 s1 k2 s1 k2 s3 s4 / a0 S1 d0 D2 s1 a3 k1 d4
S0 darts-    10 jacob_cov m0 s1 d0 S2 d2 a3 k2 S4 / S0 a1 S0 a1 k0 m3 d0 D1
S0 darts-    10 perturb   s0 s1 s0 k2 s0 d3 k1 s4 / k0 S1 s0 S1 D2 m3 D1 d4
S0 darts-    11 prune     s1 s0 s0 s1 s1 s2 d4 s3 / m0 k1 k2 m0 k2 k3 k3 k2
S0 darts-    11 valid     s0 s1 s0 k2 S0 k3 s0 S4 / S0 s1 s1 k2 d0 d3 a1 d4
S0 darts-    11 synflow   s0 s1 k1 k2 s2 d3 k1 k4 / S0 k1 d1 k2 k0 D1 S1 a2
S0 darts-    11 jacob_cov s0 k1 s0 D2 s2 d3 d3 d4 / D0 a1 S1 k2 m0 s3 D2 d3
S0 darts-    11 perturb   s0 s1 s0 k2 S2 k3 a0 d4 / s0 k1 a0 S2 k1 a3 m0 m4
S0 darts-    12 prune     s0 s1 s0 d2 d3 s0 s3 k1 / m1 m0 k2 d1 k3 k2 k4 k3
S0 darts-    12 valid     s0 D1 s0 a1 k0 k3 s1 S4 / D0 d1 m1 k2 a2 a3 d3 D4
S0 darts-    12 synflow   D0 k1 D1 k2 m2 d3 s1 s4 / D0 m1 m1 S2 a1 m3 k2 a4
S0 darts-    12 jacob_cov m0 S1 D1 d2 d0 d3 k0 S4 / S0 a1 a1 S2 d2 k3 a1 D2
S0 darts-    12 perturb   s0 s1 s1 d2 s0 D2 k0 s3 / k0 k1 a1 S2 a0 S3 S1 S2
S0 snas      10 prune     s0 s1 s0 s2 s1 s2 s3 s4 / s0 s1 a0 m1 D2 S0 k3 m4
S0 snas      10 valid     s0 D1 d0 s2 k0 S3 s0 s4 / k0 D1 s0 S1 k1 D2 d0 m1
S0 snas      10 synflow   s0 k1 d1 s2 m2 k3 s0 S4 / a0 D1 a1 a2 s0 S3 a0 d4
S0 snas      10 jacob_cov s0 D1 d0 D2 s1 S3 k0 s4 / a0 D1 D1 S2 D0 D3 m1 S3
S0 snas      10 perturb   s0 s1 k0 S2 D0 d3 m0 S4 / d0 k1 s0 m1 a0 d1 D3 k4
S0 snas      11 prune     s1 s0 s1 s0 d3 s1 S4 d3 / m1 m0 m1 m0 a0 S2 S4 m1
S0 snas      11 valid     S0 s1 D0 S2 s0 m3 S0 s3 / s0 m1 m0 d2 s0 m1 a0 d3
S0 snas      11 synflow   D0 k1 a1 d2 k2 d3 S2 d3 / m0 D1 s1 d2 a1 k2 S0 S3
S0 snas      11 jacob_cov s0 d1 d1 S2 d0 a3 S0 d3 / s0 D1 m0 m1 s0 a1 s3 d4
S0 snas      11 perturb   s0 s1 s1 D2 S0 d3 s0 s4 / m0 m1 D0 k2 a0 D1 m1 m4
S0 snas      12 prune     s1 s0 s0 s1 s1 s0 s1 s2 / s1 m0 S0 D2 s2 S3 D2 k4
S0 snas      12 valid     D0 s1 s1 S2 d0 s1 S0 a3 / S0 a1 a0 D1 s0 D2 m2 D4
S0 snas      12 synflow   s0 m1 D1 s2 m2 S3 S1 S4 / D0 a1 m1 S2 a1 m3 k2 m4
S0 snas      12 jacob_cov m0 d1 D1 d2 d0 s3 s0 d4 / d0 k1 a1 S2 d2 k3 a1 d2
S0 snas      12 perturb   s0 s1 s0 D2 s0 a3 m0 D4 / m0 d1 S0 m2 D1 a3 m1 a4
S0 gdas      10 prune     s0 s1 d2 s1 S2 D3 S3 D4 / s1 d0 s0 D2 d3 s2 s4 d2
S0 gdas      10 valid     m0 d1 a0 k2 D2 S3 a1 m3 / s0 S1 s0 s1 a0 D1 m0 S4
S0 gdas      10 synflow   s0 S1 S1 m2 a1 m3 a3 d4 / m0 d1 S1 a2 m1 d3 D2 D3
S0 gdas      10 jacob_cov s0 D1 d0 D2 k1 k3 m0 k4 / a0 D1 D1 S2 D0 D3 m1 S3
S0 gdas      10 perturb   k0 d1 s0 k2 S2 m3 S3 m4 / k0 a1 s0 D1 m0 m3 m1 a3
S0 gdas      11 prune     s0 s1 S2 s1 s0 s3 s4 s3 / d1 s0 s2 m0 s3 S1 s1 S4
S0 gdas      11 valid     D0 k1 s1 S2 s0 m3 k0 m1 / k0 s1 k0 k2 s1 D3 m0 a1
S0 gdas      11 synflow   D0 m1 m1 S2 m2 k3 k2 s3 / m0 D1 s1 d2 k1 k2 S0 d3
S0 gdas      11 jacob_cov k0 d1 d1 s2 S0 m3 S0 s3 / S0 D1 m0 m1 s0 a1 s3 d4
S0 gdas      11 perturb   D0 s1 k0 D2 a0 S3 s3 k4 / a0 d1 m1 d2 S1 d3 D2 m4
S0 gdas      12 prune     k0 S1 s2 s1 s2 s3 s3 S4 / s0 d1 m1 S0 a0 s3 m2 k1
S0 gdas      12 valid     d0 m1 D0 m2 D2 d3 a1 k3 / s0 a1 d0 S1 a1 s3 S0 d1
S0 gdas      12 synflow   m0 m1 D1 a2 m2 S3 s1 k4 / D0 a1 m1 S2 a1 m3 k2 m4
S0 gdas      12 jacob_cov m0 d1 S1 m2 d0 a3 k0 s4 / d0 k1 a1 S2 d2 k3 a1 d2
S0 gdas      12 perturb   k0 s1 D0 k2 m1 s3 m0 s4 / s0 d1 S0 m1 d1 d3 D2 a4
S0 dirichlet 10 prune     s1 s0 s2 k0 k0 s1 s4 s3 / s1 s0 D2 s1 D3 S2 D2 D4
S0 dirichlet 10 valid     a0 S1 D0 s1 a0 k2 k0 S3 / m0 m1 a0 s2 d1 s3 S0 k3
S0 dirichlet 10 synflow   s0 S1 S1 a2 k1 m3 s3 D4 / m0 d1 S1 a2 m1 d3 D2 D3
S0 dirichlet 10 jacob_cov k0 k1 d0 S2 S2 S3 S3 d4 / D0 m1 S0 m1 S2 d3 D2 s4
S0 dirichlet 10 perturb   k0 s1 D0 a2 k0 D3 S0 k2 / d0 S1 s0 s2 s0 s3 m1 m4
S0 dirichlet 11 prune     s1 k0 s0 s2 s2 s3 s4 s2 / s1 k0 S0 D2 s3 d2 S3 d4
S0 dirichlet 11 valid     s0 s1 d1 s2 D2 s3 S1 S2 / S0 S1 D0 s1 a0 D1 S1 s4
S0 dirichlet 11 synflow   D0 a1 a1 S2 m2 s3 s2 S3 / m0 D1 s1 d2 k1 k2 S0 d3
S0 dirichlet 11 jacob_cov s0 S1 d1 S2 S0 m3 S0 S3 / s0 D1 m0 m1 s0 a1 s3 d4
S0 dirichlet 11 perturb   k0 s1 S0 D2 k0 s3 a0 s3 / m0 s1 m0 S1 S0 S1 S3 S4
S0 dirichlet 12 prune     s0 s1 s2 s1 k0 d3 S4 d3 / s1 D0 s0 d1 S3 k2 s3 D4
S0 dirichlet 12 valid     D0 d1 d0 a2 D2 d3 k1 s3 / s0 a1 d0 d1 a1 s3 s0 d1
S0 dirichlet 12 synflow   s0 k1 S1 s2 m1 D3 s2 a4 / s0 k1 S0 S1 m2 S3 k0 S2
S0 dirichlet 12 jacob_cov m0 d1 S1 a2 d0 s3 k0 S4 / d0 k1 a1 S2 d2 k3 a1 d2
S0 dirichlet 12 perturb   k0 s1 S1 s2 k0 d3 k0 D4 / a0 k1 m0 D2 d0 a3 m1 a4
S1 darts      k1 k0 k1 k2 k1 k3 k1 k2 / m0 d1 m0 k2 k3 k2 k2 k4
S1 darts_pt   k0 D1 k1 k2 k0 k3 s0 d3 / m0 d1 a0 m1 s1 d2 k2 D4
S1 dartsm     k1 d0 s1 D0 k0 d3 k1 k0 / m0 d1 m0 D2 m0 k2 k2 k4
S1 dartsm_pt  k0 k1 s1 k2 k2 d3 d3 d4 / m0 d1 m1 D2 s1 D3 a0 k2
S1 blankm_pt  k0 D1 s1 d2 m0 k3 s0 D4 / m0 m1 a0 m1 m0 s1 k2 D3
S1 dartsm2    d0 D1 s1 d2 k0 d3 d4 k1 / m0 m1 m0 D2 m0 s1 D4 m0
S1 dartsm2_pt k0 k1 s1 d2 k2 k3 s0 d4 / m0 m1 m1 D2 m0 s1 k3 k4
S1 blankm2_pt k0 D1 D0 s1 s2 k3 s0 m1 / m0 m1 a1 D2 s1 k2 k3 k4
S2 dartsm     k1 s0 k1 k2 k3 s0 k2 k3 / s0 k1 k2 k1 k2 k3 k2 s1
S2 dartsm_pt  s0 s1 k1 k2 k0 s3 s0 k4 / s0 s1 s0 s1 k2 k3 s0 k3
S2 blankm_pt  k0 s1 k0 s2 k2 k3 k1 s4 / s0 s1 s0 s2 k2 k3 s3 k4
S2 dartsm2    s0 s1 s2 s0 s0 s2 s4 s0 / k1 k0 k2 k1 k3 k2 k3 k4
S2 dartsm2_pt s0 s1 k1 s2 s0 s3 s0 k2 / s0 k1 s0 s1 s1 k2 k3 k4
S2 blankm2_pt k0 s1 k0 s2 s0 k3 k2 s3 / s0 s1 s0 s2 s0 k2 k3 k4
S3 dartsm     k1 k0 s1 s0 k1 s0 k1 k0 / k1 s0 k2 k1 k3 k2 k2 k3
S3 dartsm_pt  s0 k1 k0 s2 s1 s3 k3 k4 / s0 s1 s0 k2 s0 k2 k3 s4
S3 blankm_pt  k0 s1 k0 s2 s2 s3 k0 k1 / s0 s1 s0 s2 k2 s3 k3 k4
S3 dartsm2    s1 s0 s1 s0 s0 s1 s1 s0 / k1 k0 k1 s0 k1 k3 s3 s0
S3 dartsm2_pt s0 s1 s0 s1 k0 s2 k2 s4 / s0 s1 s0 s1 k2 k3 k2 k4
S3 blankm2_pt k0 s1 k1 s2 s2 k3 k0 s4 / s0 s1 s0 s1 s0 s1 s2 k3
S4 dartsm     s1 s0 s1 s0 n3 n2 n4 n3 / s1 s0 s0 s1 s1 s3 s0 s1
S4 dartsm_pt  s0 s1 s0 s2 s0 s1 s0 s1 / s0 s1 s0 s2 s0 s1 s1 s2
S4 blankm_pt  s0 s1 s0 s2 s0 s1 s0 s1 / s0 s1 s0 s2 s0 s1 s0 s3
S4 dartsm2    s0 s1 s0 s1 n3 n2 n4 n3 / s1 s0 s1 s2 s1 s2 s1 s4
S4 dartsm2_pt s0 s1 s0 s2 s0 s3 s0 s1 / s0 s1 s1 s2 s0 s1 s0 s1
S4 blankm2_pt s0 s1 s0 s2 s0 s1 s0 s1 / s0 s1 s0 s2 s1 s2 s0 s1
"""


def _read(text: str) -> dict[str, dict[str, str]]:
    found: dict = {}
    for line in text.splitlines():
        space, *name, cells = line.split(maxsplit=len(line.split()) - 17)
        found.setdefault(space.lower(), {})[" ".join(name)] = cells
    return found


CELLS = _read(_TEXT)    # space -> name -> the two cells in the short notation
