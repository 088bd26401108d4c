"""`python -m benchmarks.features`."""

from __future__ import annotations

import sys

from benchmarks.features.against_feast import main

if __name__ == "__main__":
    sys.exit(main())
