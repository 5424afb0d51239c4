"""What can be learnt from: latencies that are positive numbers, enough of them."""

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Floats


def checked_ms(latency_ms: Floats, count: int, least: int = 1) -> Floats:
    """The latencies as float64[count].

    Raises:
        InvalidRequest: ``training_rows_invalid``: fewer than ``least``, not one for each row, or not positive numbers.
    """
    found = np.asarray(latency_ms, dtype=np.float64)
    if found.shape != (count,):
        raise _refusal(f"{count} rows need as many latencies, not {list(found.shape)}")
    if count < least:
        raise _refusal(f"{count} rows are too few; at least {least} are needed")
    wrong = ~(np.isfinite(found) & (found > 0))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise _refusal(f"row {first}: a latency must be a positive number of ms, not {found[first]}")
    return found


def _refusal(detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code="training_rows_invalid", field="latency_ms")
