"""Which parts of training are there: PyTorch and scikit-learn are extras, and neither is imported to find out."""

from importlib.util import find_spec
from typing import Final

from benchfarm_core.errors import InvalidRequest

TORCH: Final = "torch"
TREES: Final = "sklearn"
_SAYS: Final = {
    TORCH: "PyTorch is not installed: the extra `train` of benchfarm-predictor brings it",
    TREES: "scikit-learn is not installed: the extra `train` of benchfarm-predictor brings it",
}


def why_absent(package: str) -> str | None:
    """Why what needs this package is left out; None when it is there."""
    return None if find_spec(package) is not None else _SAYS[package]


def need(package: str) -> None:
    """Refuse what needs a package that is not there.

    Raises:
        InvalidRequest: ``invalid_request``, with how to get it.
    """
    reason = why_absent(package)
    if reason is not None:
        raise InvalidRequest(reason)
