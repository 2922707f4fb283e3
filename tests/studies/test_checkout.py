"""The studies are of the checkout: no wheel has them, and no package needs them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PACKAGES = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]["packages"]


def test_no_wheel_has_them():
    assert not [package for package in PACKAGES if "studies" in package]


def test_no_package_imports_them():
    sources = [file for package in PACKAGES for file in (CHECKOUT / package).rglob("*.py")]
    assert sources
    importing = [file for file in sources if re.search(r"^\s*(import|from) studies\b", file.read_text(), re.MULTILINE)]
    assert importing == []
