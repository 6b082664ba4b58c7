"""A sweep as one writes it in a notebook; torch is not needed here.

python launch/sweep.py my-site.yaml     # on Slurm
python launch/sweep.py                  # on this machine
"""

import sys

from hpc_srct.settings.site import load_site
from hpc_srct.sweeps import Sweep

sweep = Sweep(
    {
        "name": "widths",
        "experiment": {
            "train": "stores/train",
            "validation": "stores/validation",
            "test": "stores/test",
            "epochs": 20,
        },
        "grid": {"model.name": ["unet", "resattunet"], "model.width": [16, 32], "seed": [1, 2]},
        "parallel": 2,
    }
)

if len(sys.argv) > 1:
    sweep.submit("slurm", load_site(sys.argv[1]))
else:
    sweep.submit("local")

# Kill this at any moment and call it again: what is done stays, what was stopped goes on.
sweep.conclude(sweep.wait())
print(sweep.results().over_seeds().markdown())
