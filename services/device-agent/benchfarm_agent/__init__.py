"""The device agent: one process in a lab that drives boards for a farm."""

from typing import Final

VERSION: Final = "0.1.0"
