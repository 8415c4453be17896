"""The quick campaign on a real Slurm of one node: are its result sets those in results/quick, made without it?

    python tests/whole_on_slurm.py        # after the main job; some minutes, and the programs that test_slurm names
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from nas_lib import results, verify
from test_slurm import ROOT, cluster, prepare, snakemake


def run(folder: Path) -> None:
    """The campaign without its pages, by a Slurm whose files are below ``folder``, as its results are."""
    prepare(folder, yaml.safe_load((ROOT / "notebooks/campaigns/quick.yaml").read_text()) | {"pages": None})
    with cluster(folder / "cluster") as (environment, _):
        command, _ = snakemake("slurm", "--configfile", "campaign.yaml", "--default-resources", "mem_mb=450", "runtime=30",
                               "--slurm-status-command", "squeue")
        subprocess.run(command, check=True, cwd=folder, env=environment | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"})


def differing(ours: Path, theirs: Path) -> list[str]:
    """Names of the result sets of one folder that the other has with other values or inputs; clocks are left out."""
    return [path.name for path in sorted(ours.glob("*.nc"))
            if verify.compare(*(results.read(p) for p in (path, theirs / path.name))).different.any()]


if __name__ == "__main__":
    local = ROOT / "results/quick"
    count = len(list(local.glob("*.nc")))
    if not count:
        sys.exit("no results/quick: run `snakemake --profile notebooks/profiles/local` first")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as place:
        run(Path(place))
        wrong = differing(local, Path(place) / "results/quick")
    print(f"{count} result sets, {len(wrong)} differ {' '.join(wrong)}")
    sys.exit(bool(wrong))
