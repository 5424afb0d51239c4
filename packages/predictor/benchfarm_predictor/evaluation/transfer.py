"""Transfer judged offline: how well each method predicts a platform of which n samples were measured.

The rows that judge are split off by their configurations before anything else happens. No donor saw them, and no
choice does: what is chosen depends on the n samples alone.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurement_sets import KernelRows, MeasurementSet
from benchfarm_predictor.evaluation.cells import cell, methods_without
from benchfarm_predictor.evaluation.remembering import Remembering
from benchfarm_predictor.evaluation.report import (
    METHODS,
    KernelEvaluation,
    LeftOut,
    Method,
    MethodScores,
    Runs,
    TransferEvaluation,
    method_scores,
)
from benchfarm_predictor.evaluation.splits import draws, seed_of, split
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.metrics import score
from benchfarm_predictor.networks import Network
from benchfarm_predictor.similarity import LEAST_COMMON
from benchfarm_predictor.training.absent import TORCH, why_absent
from benchfarm_predictor.training.candidates import problem_of
from benchfarm_predictor.training.donor_fits import fit_donor
from benchfarm_predictor.training.donors import Donor
from benchfarm_predictor.training.measured import MIN_ROWS, Measured, config_keys

MIN_TEST_ROWS: Final = 20
SAMPLES_MAX: Final = 10_000
REPEATS_MAX: Final = 100
SAME_SHARE: Final = 0.5
"""Two platforms do not take the same time to the last digit for so many of the configurations that both measured."""
ROUNDED: Final = 0.01
"""How far rounding takes a time at most, of 1: what is rounded more coarsely may be equal by chance."""

Say = Callable[[str], None]
"""Told what is going on, in a few words."""


@dataclass(frozen=True)
class NamedSet:
    """A measurement set with the name that tables call it by."""

    name: str
    content: MeasurementSet


@dataclass(frozen=True)
class Plan:
    """How to evaluate: sizes of samples, how often each is drawn, of which kernel types (None: all), by which seed.

    Without ``baselines`` LitePred's network and nn-Meter's forest are left out, which take most of the time.
    """

    samples: tuple[int, ...] = (30, 100, 300, 1000)
    repeats: int = 10
    kernels: tuple[str, ...] | None = None
    seed: int = 0
    baselines: bool = True

    def check(self) -> None:
        """Raises InvalidRequest that names the field."""
        if not self.samples or not all(MIN_ROWS <= size <= SAMPLES_MAX for size in self.samples):
            raise InvalidRequest(f"samples must be {MIN_ROWS} to {SAMPLES_MAX} each", field="samples")
        if not 1 <= self.repeats <= REPEATS_MAX:
            raise InvalidRequest(f"repeats must be 1 to {REPEATS_MAX}", field="repeats")


@dataclass
class Shelf:
    """Donors that were fitted already: an evaluation of many pairs fits each once."""

    donors: dict[tuple[str, ...], Donor] = field(default_factory=dict)
    published: dict[tuple[str, ...], Network] = field(default_factory=dict)


def evaluate_transfer(
    target: NamedSet,
    pool: Sequence[NamedSet],
    plan: Plan,
    *,
    say: Say = lambda _: None,
    shelf: Shelf | None = None,
) -> TransferEvaluation:
    """Every method's scores on the target, with donors from the pool. The same figures for the same sets and plan.

    Raises:
        InvalidRequest: the plan's fields are out of range; the target is in the pool; no kernel type can be evaluated.
    """
    plan.check()
    _check_pool(target, pool)
    left_out: list[LeftOut] = []
    found = []
    for kernel in _wanted(target, plan):
        evaluation = _Evaluation(target, pool, plan, kernel, say, shelf or Shelf(), left_out)
        scores = evaluation.run()
        if scores is not None:
            found.append(scores)
    if not found:
        reasons = "; ".join(f"{each.kernel}: {each.reason}" for each in left_out) or "the target has no rows"
        raise InvalidRequest(f"nothing can be evaluated: {reasons}", field="pool")
    left_out += [
        LeftOut(kernel=None, method=method, samples=None, reason=reason)
        for method, reason in methods_without(len(pool), plan.baselines).items()
    ]
    return TransferEvaluation(
        target=target.name,
        pool=tuple(one.name for one in pool),
        samples=plan.samples,
        repeats=plan.repeats,
        seed=plan.seed,
        kernels=tuple(found),
        left_out=tuple(left_out),
    )


def _check_pool(target: NamedSet, pool: Sequence[NamedSet]) -> None:
    if not pool:
        raise InvalidRequest("the pool needs at least one measurement set", field="pool")
    names = [target.name, *(one.name for one in pool)]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InvalidRequest(f"two measurement sets are called {repeated!r}", field="pool")
    own = next((one.name for one in pool if _are_same(target.content, one.content)), None)
    if own is not None:
        raise InvalidRequest(f"{own!r} is the target itself: it cannot be its own donor", field="pool")


def _are_same(one: MeasurementSet, other: MeasurementSet) -> bool:
    """Whether two sets are of the same measurements, whatever they say of themselves and wherever rows are missing."""
    times = [
        (first, second)
        for name in one.kernels.keys() & other.kernels.keys()
        for first, second in _times_of_both(one.kernels[name], other.kernels[name])
    ]
    equal = sum(_is_one_time(first, second) for first, second in times)
    return one.content_hash == other.content_hash or (len(times) >= LEAST_COMMON and equal > SAME_SHARE * len(times))


def _is_one_time(first: float, second: float) -> bool:
    """Whether two times are the same to the last digit that both have: one of the sets may be written in fewer."""
    digits = min(-int(Decimal(repr(each)).as_tuple().exponent) for each in (first, second))
    return math.isclose(first, second, rel_tol=ROUNDED) and round(first, digits) == round(second, digits)


def _times_of_both(one: KernelRows, other: KernelRows) -> list[tuple[float, float]]:
    """What both took for each configuration that both have, in ms."""
    first, second = Kernels.of_set(one), Kernels.of_set(other)
    if {*first.columns} != {*second.columns}:
        return []
    theirs = dict(zip(config_keys(second), other.latency_ms, strict=True))
    ours = zip(config_keys(first), one.latency_ms, strict=True)
    return [(time_ms, theirs[key]) for key, time_ms in ours if key in theirs]


def _wanted(target: NamedSet, plan: Plan) -> list[str]:
    has = target.content.kernels
    unknown = next((name for name in plan.kernels or () if name not in has), None)
    if unknown is not None:
        raise InvalidRequest(f"{target.name} has no kernel {unknown!r}; it has {', '.join(has)}", field="kernel")
    return [name for name in has if plan.kernels is None or name in plan.kernels]


@dataclass(frozen=True)
class _Evaluation:
    """One kernel type of the target."""

    target: NamedSet
    pool: Sequence[NamedSet]
    plan: Plan
    kernel: str
    say: Say
    shelf: Shelf
    left_out: list[LeftOut]

    def run(self) -> KernelEvaluation | None:
        """All its methods' scores; None where it is left out, with the reason noted."""
        measured = Measured.of_set(self.target.content.kernels[self.kernel])
        rows, judged = split(measured.kernels, self.plan.seed)
        if len(judged) < MIN_TEST_ROWS or len(rows) < min(self.plan.samples):
            self._without(f"{len(measured)} rows are too few to draw {min(self.plan.samples)} and judge by the rest")
            return None
        donors = self._donors(measured.kernels)
        if not donors:
            self._without("no set of the pool has this kernel type with the same columns and enough rows")
            return None
        return KernelEvaluation(
            kernel=self.kernel,
            rows=len(rows),
            test_rows=len(judged),
            donors=tuple(donor.name for donor, _ in donors),
            methods=self._scores(measured.take(rows), measured.take(judged), donors),
        )

    def _without(self, reason: str, samples: int | None = None) -> None:
        self.left_out.append(LeftOut(kernel=self.kernel, method=None, samples=samples, reason=reason))

    def _sizes(self, rows: int) -> tuple[int, ...]:
        for size in self.plan.samples:
            if size > rows:
                self._without(f"{rows} rows can be drawn from", samples=size)
        return tuple(size for size in self.plan.samples if size <= rows)

    def _scores(
        self, drawn_from: Measured, judged: Measured, donors: Sequence[tuple[Donor, Network | None]]
    ) -> tuple[MethodScores, ...]:
        published = {donor.name: network for donor, network in donors if network is not None}
        views = [replace(donor, model=Remembering(donor.model)).over(drawn_from.kernels) for donor, _ in donors]
        sizes = self._sizes(len(drawn_from))
        runs: dict[tuple[int, Method], Runs] = {}
        far: Counter[tuple[int, str]] = Counter()
        for repeat in range(self.plan.repeats):
            seed = seed_of(self.plan.seed, self.kernel, repeat)
            for size, rows in draws(len(drawn_from), sizes, seed):
                self.say(f"{self.kernel}: {size} samples, repeat {repeat + 1} of {self.plan.repeats}")
                problem = problem_of(drawn_from.take(rows), tuple(view.take(rows) for view in views), seed)
                far.update((size, name) for name in problem.far)
                for method, made in cell(problem, judged.kernels, published, self.plan.baselines).items():
                    scored = score(made.predicted_ms, judged.latency_ms)
                    own = runs.setdefault((size, method), Runs())
                    own.add(scored, made.coverage(judged.latency_ms), made.members)
        for (size, name), count in far.items():
            self._without(f"{name} was too far to be a donor in {count} of {self.plan.repeats} repeats", size)
        whole = self._whole(runs, sizes, len(donors))
        return tuple(method_scores(method, size, runs[size, method]) for size, method in whole)

    def _whole(
        self, runs: Mapping[tuple[int, Method], Runs], sizes: Sequence[int], donors: int
    ) -> list[tuple[int, Method]]:
        """Sizes and methods of which all repeats are there; where a donor was near in some of them alone, a mean over
        those would be of other samples than the other methods'."""
        without = methods_without(donors, self.plan.baselines)
        whole = []
        for size, method in ((size, method) for size in sizes for method in METHODS if method not in without):
            made = len(runs[size, method].scores) if (size, method) in runs else 0
            if made == self.plan.repeats:
                whole.append((size, method))
            else:
                reason = f"too few donors were near in {self.plan.repeats - made} of {self.plan.repeats} repeats"
                self.left_out.append(LeftOut(kernel=self.kernel, method=method, samples=size, reason=reason))
        return whole

    def _donors(self, kernels: Kernels) -> list[tuple[Donor, Network | None]]:
        """Donors in the target's order of columns, without the configurations that judge; LitePred's networks."""
        found = []
        for one in self.pool:
            rows = one.content.kernels.get(self.kernel)
            measured = None if rows is None else _in_order(Measured.of_set(rows), kernels.columns)
            if measured is None:
                continue
            kept = measured.take(split(measured.kernels, self.plan.seed)[0])
            if len(kept) >= MIN_ROWS:
                found.append(self._fitted(one, kept))
        return found

    def _fitted(self, one: NamedSet, kept: Measured) -> tuple[Donor, Network | None]:
        key = (one.name, one.content.content_hash, self.kernel, *kept.kernels.columns, str(self.plan.seed))
        seed = seed_of(self.plan.seed, one.name, self.kernel)
        if key not in self.shelf.donors:
            self.say(f"{self.kernel}: fitting {one.name} to {len(kept)} rows")
            self.shelf.donors[key] = fit_donor(one.name, kept, seed)
        if self.plan.baselines and why_absent(TORCH) is None and key not in self.shelf.published:
            from benchfarm_predictor.training.litepred_network import fit_base

            self.say(f"{self.kernel}: fitting LitePred's network of {one.name} to {len(kept)} rows")
            self.shelf.published[key] = fit_base(kept, seed)
        return self.shelf.donors[key], self.shelf.published.get(key)


def _in_order(measured: Measured, columns: tuple[str, ...]) -> Measured | None:
    """The same rows with their columns in this order; None where they are others."""
    kernels = measured.kernels
    if set(kernels.columns) != set(columns):
        return None
    order = [kernels.columns.index(name) for name in columns]
    return Measured(Kernels(kernels.type, columns, np.ascontiguousarray(kernels.values[:, order])), measured.latency_ms)
