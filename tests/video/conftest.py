"""What the tests of videos share."""

from __future__ import annotations

import sys
from pathlib import Path

# The synthetic videos, and the detector that reads them.
sys.path.insert(0, str(Path(__file__).parent))
