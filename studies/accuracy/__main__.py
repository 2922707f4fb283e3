"""The command: ``python -m studies.accuracy``."""

from __future__ import annotations

import sys

from studies.accuracy.command import main

if __name__ == "__main__":
    sys.exit(main())
