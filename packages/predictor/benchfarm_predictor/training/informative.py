"""What to measure next: the architectures that tell most.

Two things tell that a row is missing somewhere: nothing like it was measured, and models that are equally good on what
was measured disagree about it. What is asked for next is spread out, too: of two that are alike one is enough. Every
second one is taken as it was drawn, so that half of the rows are draws of the space, whatever the models were wrong
about; the other half is harder than those, and so is what cross-validation says of all of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Batch, Model
from benchfarm_predictor.smooth import distances
from benchfarm_predictor.sums import SumFeatures


def next_models(plausible: Sequence[Model], measured: KernelLists, offered: KernelLists, count: int) -> tuple[int, ...]:
    """The numbers of the offered kernel lists to measure next, at most ``count``, the most telling first.

    ``plausible``: models that are nearly equally good on what was measured (``PlatformFit.plausible``).
    """
    features = SumFeatures("shares")
    x, known = features.matrix(offered), features.matrix(measured)
    return _next(x, known, disagreement(plausible, offered), count)


def disagreement(plausible: Sequence[Model], batch: Batch) -> Floats:
    """Standard deviation of the models' log ms about each row: float64[n]; 0 of fewer than two models."""
    if len(plausible) < 2 or not len(batch):
        return np.zeros(len(batch))
    said: Floats = np.std([np.log(model.predict(batch)) for model in plausible], axis=0)
    return said


def _next(x: Floats, known: Floats, doubt: Floats, count: int) -> tuple[int, ...]:
    """Rows of float64[n, d] by distance to known ones, float64[m, d], times doubt, float64[n], and as they come."""
    if not len(x):
        return ()
    usual = float(np.mean(doubt))
    weights = 1 + doubt / usual if usual > 0 else np.ones(len(x))
    gaps = distances(x, known).min(axis=1) if len(known) else np.full(len(x), np.inf)
    return tuple(_spread(x, weights, gaps, min(count, len(x))))


def _spread(x: Floats, weights: Floats, gaps: Floats, count: int) -> Iterator[int]:
    """In turn the row with the largest gap x weight and the first one that is left: numbers of rows of float64[n, d].
    ``gaps``: float64[n], distances to what is known."""
    is_left = np.ones(len(x), dtype=bool)
    for turn in range(count):
        at = int(np.argmax(is_left if turn % 2 else np.where(is_left, _finite(gaps) * weights, -1.0)))
        is_left[at] = False
        gaps = np.minimum(gaps, distances(x, x[at : at + 1])[:, 0])
        yield at


def _finite(gaps: Floats) -> Floats:
    """Where nothing is known everything is equally far."""
    return np.where(np.isinf(gaps), 1.0, gaps)
