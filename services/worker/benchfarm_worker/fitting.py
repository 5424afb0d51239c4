"""Fits and judges for the farm: from the store's rows to published files. Computes for seconds, writes nothing."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import zip_longest
from math import expm1, log
from typing import Final, NamedTuple

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore, KernelRow, TrainingRows
from benchfarm_core.publishing import First
from benchfarm_core.values import digest
from benchfarm_core.workloads import ArchitectureWorkload
from benchfarm_predictor import predictor_file
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.models import Batch
from benchfarm_predictor.training.informative import next_models
from benchfarm_predictor.training.judging import errors, judge
from benchfarm_predictor.training.model_donors import PlatformDonor
from benchfarm_predictor.training.platform_fit import PlatformFit, donor_of, fit_kernel, fit_model
from benchfarm_predictor.training.platform_rows import PlatformRows, measured_kernels, measured_models
from benchfarm_store.adaptation_items import Ask
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.spaces import kernels

KERNEL_ROWS_MIN: Final = 12
"""A kernel type with fewer rows timed alone gets no predictor of its own."""
KERNELS_MAX: Final = 8
"""Kernel types that one adaptation makes predictors of: those with the most rows."""
DONORS_KEPT: Final = 8

_donors: OrderedDict[str, PlatformDonor] = OrderedDict()
"""By what they learnt from, the latest last: each takes seconds, and every round needs the same ones."""


class Known(NamedTuple):
    """What can be learnt from: a platform's own rows without what judges, and what others lend."""

    rows: PlatformRows
    donors: tuple[PlatformDonor, ...]

    @classmethod
    def of(
        cls,
        own: TrainingRows,
        held: Collection[str],
        others: Sequence[TrainingRows],
        unseen_spaces: Collection[str] = (),
    ) -> "Known":
        """From the store's rows; `held`: workloads that judge. Architectures of ``unseen_spaces`` teach nobody."""
        models = (row for rows in (own, *others) for row in rows.models) if unseen_spaces else ()
        refused = {*held, *(row.workload_id for row in models if row.space in unseen_spaces)}
        lenders = (_lender(rows, refused) for rows in others)
        return cls(PlatformRows.of(own, refused), tuple(one for one in lenders if one is not None))


def _lender(rows: TrainingRows, held: Collection[str]) -> PlatformDonor | None:
    """What a platform lends; None where it has too little."""
    key = _taught_by(rows, held)
    if key not in _donors:
        try:
            _donors[key] = donor_of(PlatformRows.of(rows, held))
        except InvalidRequest:
            return None
    _donors.move_to_end(key)
    while len(_donors) > DONORS_KEPT:
        _donors.popitem(last=False)
    return _donors[key]


def _taught_by(rows: TrainingRows, held: Collection[str]) -> str:
    """Names what is left of the rows without ``held``: a donor that knew what judges would be a look-up table.

    Not by their hash alone: it is of all rows, and in a pool file it is what somebody else says of them.
    """
    refused = frozenset(held)
    left = [
        (row.workload_id, row.timing if isinstance(row, KernelRow) else "", row.normalised_ms, row.grade, row.purpose)
        for row in rows.every
        if row.workload_id not in refused
    ]
    return digest([rows.platform, rows.rule_version, rows.data_hash, left])


def whole_model(known: Known) -> PlatformFit | None:
    """A predictor of whole models; None where there is too little to learn from."""
    found = fit_or_why(known, WHOLE_MODEL)
    return None if isinstance(found, str) else found


def fit_or_why(known: Known, subject: str) -> PlatformFit | str:
    """A predictor of one subject, or why there is too little to learn from, with what to do."""
    try:
        if subject == WHOLE_MODEL:
            return fit_model(known.rows, known.donors)
        return fit_kernel(known.rows, subject, known.donors)
    except InvalidRequest as error:
        if error.code != "training_rows_invalid":
            raise
        return error.detail


def kernel_types(known: Known) -> list[str]:
    """The kernel types that can have a predictor of their own, those with the most rows first."""
    counts = {name: len(rows) for name, rows in known.rows.alone.items() if len(rows) >= KERNEL_ROWS_MIN}
    return sorted(counts, key=lambda name: (-counts[name], name))[:KERNELS_MAX]


def score(file: bytes, rows: TrainingRows) -> HoldoutScore | None:
    """What a predictor's file scores on rows; None where there are none of its subject, or it is not to be read."""
    try:
        return judge(predictor_file.read(file), rows)
    except InvalidRequest:
        return None


def gains(file: bytes, before: bytes, rows: TrainingRows, rows_before: TrainingRows) -> list[float]:
    """Of each row that both files are scored by, by how much nearer the first one is: the relative error of the one
    ``before`` less its own. ``rows_before``: the same rows with their kernels as that one takes them.

    Raises InvalidRequest as ``judging.errors``, and for a file that is not to be read."""
    own = errors(predictor_file.read(file), rows)
    theirs = errors(predictor_file.read(before), rows_before)
    return [float(one) for one in theirs - own]


def as_first(fit: PlatformFit, file: bytes, rows: TrainingRows, holdout: HoldoutScore | None) -> First | None:
    """How far a fit is off where nothing answers yet: on the rows on which its file scored ``holdout``, else on its
    own; None where there are neither."""
    if holdout is not None:
        ratios = log_ratios(file, rows, fit.predictor.header.kernel_type)
        return First(holdout, min(abs(expm1(-ratio)) for ratio in ratios))
    found = None if fit.told is None else fit.told.score()
    return None if found is None or fit.told is None else First(found, fit.told.least_error)


def log_ratios(file: bytes, rows: TrainingRows, subject: str) -> list[float]:
    """Natural logarithms of measured over predicted, of the rows of a subject.

    Raises InvalidRequest for a file that is not to be read, and for rows that it does not take.
    """
    predictor = predictor_file.read(file)
    batch: Batch
    if subject == WHOLE_MODEL:
        models = measured_models(rows.models)
        batch, latency_ms = models.lists, models.latency_ms
    else:
        alone = [row for row in rows.kernels if row.kernel_type == subject and row.timing == Timing.ALONE]
        kernels_of = measured_kernels(subject, alone)
        batch, latency_ms = kernels_of.kernels, kernels_of.latency_ms
    if not len(latency_ms):
        return []
    return [log(ms / said) for ms, said in zip(latency_ms, predictor.model.predict(batch), strict=True)]


def most_informative(asks: Sequence[Ask], fit: PlatformFit | None, known: Known, rules: FusionRules) -> list[Ask]:
    """The same asks, of each search space those first that would tell most; kernels stay as they were drawn."""
    by_space: dict[str, list[Ask]] = {}
    for ask in asks:
        if isinstance(ask.workload, ArchitectureWorkload):
            by_space.setdefault(ask.workload.space, []).append(ask)
    ordered = [_ordered(each, fit, known, rules) for each in by_space.values()]
    models = [ask for turn in zip_longest(*ordered) for ask in turn if ask is not None]
    return [*models, *(ask for ask in asks if not isinstance(ask.workload, ArchitectureWorkload))]


def _ordered(asks: Sequence[Ask], fit: PlatformFit | None, known: Known, rules: FusionRules) -> list[Ask]:
    networks = [ask.workload for ask in asks if isinstance(ask.workload, ArchitectureWorkload)]
    offered = KernelLists.of(kernels(network, rules) for network in networks)
    plausible = () if fit is None else fit.plausible
    return [asks[at] for at in next_models(plausible, known.rows.models.lists, offered, len(asks))]
