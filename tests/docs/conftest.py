"""What the tests of the pages share."""

from __future__ import annotations

import sys
from pathlib import Path

# The reader of the pages.
sys.path.insert(0, str(Path(__file__).parent))
