"""``python -m hpc_srct``: the same as the command ``srct``."""

from hpc_srct.cli import main

if __name__ == "__main__":
    main()
