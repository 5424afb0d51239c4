"""Reads a measurement set from its folder, for offline evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_folder(path: Path, names: Mapping[str, str] | None = None) -> Any:
    """The measurement set of a folder; ``names``: foreign kernel name -> ours.

    Raises:
        InvalidRequest: ``measurement_set_invalid`` as ``measurement_sets.read_tables``; no platform.json; too large.
    """
    raise NotImplementedError
