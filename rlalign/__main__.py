"""`python -m rlalign`: the same as the `rlalign` script."""

from __future__ import annotations

import sys

from rlalign.cli import main

if __name__ == "__main__":
    sys.exit(main())
