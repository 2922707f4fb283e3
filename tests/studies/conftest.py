"""Puts the checkout on the path: no installation has `studies`."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that refiner itself is the installed one.
sys.path.append(str(Path(__file__).parents[2]))
