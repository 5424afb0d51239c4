"""Where the tests' native runners lie."""

from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parents[3] / ".benchfarm" / "native"
"""The repository's own folder, which git ignores and CI may keep."""
