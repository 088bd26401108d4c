"""`python -m verification.hung`: one line of JSON; the exit status is 1 where a bound is missed."""

from __future__ import annotations

import sys

from verification.hung.run import main

if __name__ == "__main__":
    sys.exit(main())
