"""`python -m verification.rollouts`: one line of JSON; the exit status is 1 where the proof fails."""

from __future__ import annotations

import sys

from verification.rollouts.run import main

if __name__ == "__main__":
    sys.exit(main())
