"""Runs r2keras-compress from a checkout: `python tools/compress.py --help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # The checkout, in place of this folder; an installed r2keras is not used.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from r2keras.cli.compress import main

    sys.exit(main())
