"""`python -m benchmarks.routing`."""

from __future__ import annotations

import sys

from benchmarks.routing.lanes import main

if __name__ == "__main__":
    sys.exit(main())
