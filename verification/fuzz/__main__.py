"""`python -m verification.fuzz`: one line of JSON; the exit status is 1 where something failed."""

from __future__ import annotations

import sys

from verification.fuzz.run import main

if __name__ == "__main__":
    sys.exit(main())
