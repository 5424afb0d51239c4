"""The latency question: what is measured of it, and what predictors must know to say the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.latency import MAX_ANSWERS, LatencyAnswer, LatencyRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import ClockProof, Platform, parse_platform_key
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.protocols import PROTOCOLS, purpose_of
from benchfarm_core.summaries import GRADE_ORDER, Grade
from benchfarm_core.workloads import AnySingle, KernelWorkload, PairWorkload, UploadRequest, workload_id
from benchfarm_store import asked_kernels, estimates, platforms, predictors, specs
from benchfarm_store.asked_kernels import AskedKernels
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, rows_json, workload_digest
from benchfarm_store.predictors import Head
from benchfarm_store.tokens import Caller


class AskedPlatform(NamedTuple):
    """A platform of a question.

    `gaps`: numbers of the workloads of which nothing usable is measured here. `heads`: what answers those, by subject.
    `fusing`: the place of its rules among the question's, None where no whole model is to be predicted.
    """

    key: str
    platform: Platform
    gaps: tuple[int, ...]
    heads: Mapping[str, Head]
    fusing: int | None


@dataclass(frozen=True, eq=False)
class Asked:
    """A question with what the farm knows of it, as one transaction saw it. Different workloads are numbered.

    Attributes:
        numbers: per item that of its workload.
        workloads, subjects: by number; a subject is the workload's kernel type, or `WHOLE_MODEL`.
        platforms: each once, in the order of the question.
        best: by number and place of platform the row of the best usable measurement.
    """

    timing: Timing
    numbers: Sequence[int]
    workloads: Sequence[AnySingle]
    subjects: Sequence[str]
    platforms: Sequence[AskedPlatform]
    kernels: AskedKernels
    best: Mapping[tuple[int, int], Row[Any]]

    def answers(self, rest: Callable[[int, int, int], LatencyAnswer]) -> list[LatencyAnswer]:
        """Items outer, platforms inner. `rest` answers what is not measured, by item, number and place of platform."""
        made = []
        for item_no, number in enumerate(self.numbers):
            for place, one in enumerate(self.platforms):
                row = self.best.get((number, place))
                made.append(rest(item_no, number, place) if row is None else self._measured(item_no, one.key, row))
        return made

    def _measured(self, item_no: int, platform: str, row: Row[Any]) -> LatencyAnswer:
        return LatencyAnswer(
            item_no=item_no,
            platform=platform,
            timing=self.timing,
            source="measured",
            median_ms=row.median_ms,
            low_ms=row.low_ms,
            high_ms=row.high_ms,
            normalised_ms=row.normalised_ms,
            grade=row.grade,
            clock_proof=ClockProof(CLOCK_PROOFS[row.clock_proof]),
            coverage=row.interval_coverage,
            measurement_id=row.id,
            measured_at=row.measured_at,
            origin=row.origin,
            error=None,
            detail=None,
        )


class Named(NamedTuple):
    """The items of a question as they are known without the farm: workloads with their ids, None for uploads."""

    workloads: list[AnySingle | None]
    ids: list[str | None]


def named(request: LatencyRequest) -> Named:
    """What takes most of the time of naming what is asked; no connection is needed for it.

    Raises InvalidRequest for what the catalogue refuses.
    """
    resolved = specs.resolve_generated(request.items, field="items")
    workloads = [None if one is None else _single(one) for one in resolved]
    return Named(workloads, [None if one is None else workload_id(one) for one in workloads])


def check(tx: Transaction, request: LatencyRequest) -> None:
    """Whether a question that names many platforms is one, before its items are looked at.

    Raises InvalidRequest (`too_large` above `MAX_ANSWERS`).
    """
    _check_size(len(request.items) * len(platforms.find_all(tx, request.platforms)))


def ask(tx: Transaction, request: LatencyRequest, by: Caller, items: Named | None = None) -> Asked:
    """Every item on every platform: the newest fresh result of that timing, of any protocol of the farm's own.

    What predicts the rest is looked up here too, so that a question sees each predictor before it was replaced or
    after, and never both. Times in situ are not predicted.

    Args:
        items: what `named` made of the request's before the transaction; None: it is done here.

    Raises InvalidRequest (`too_large` above `MAX_ANSWERS`), NotFound for models of other accounts.
    """
    rows = platforms.find_all(tx, request.platforms)
    _check_size(len(request.items) * len(rows))
    singles, ids = _with_uploads(tx, request, items or named(request), by)
    places = {id_: number for number, id_ in enumerate(dict.fromkeys(ids))}
    numbers = [places[id_] for id_ in ids]
    workloads = dict(zip(numbers, singles, strict=True))
    uploads = {
        number: item.model_id
        for number, item in zip(numbers, request.items, strict=True)
        if isinstance(item, UploadRequest)
    }
    best = _best(tx, request, list(places), [row.id for row in rows])
    subjects = [subject_of(workload) for workload in workloads.values()]
    gaps = [tuple(n for n in workloads if (n, place) not in best) for place in range(len(rows))]
    asked, kernels = _to_predict(tx, request.timing, rows, gaps, subjects, uploads)
    return Asked(request.timing, numbers, list(workloads.values()), subjects, asked, kernels, best)


def _with_uploads(
    tx: Transaction, request: LatencyRequest, items: Named, by: Caller
) -> tuple[list[AnySingle], list[str]]:
    """The workloads of all items, and their ids. Raises NotFound for models of other accounts."""
    wanted = {at: item.model_id for at, item in enumerate(request.items) if isinstance(item, UploadRequest)}
    found = specs.find_uploads(tx, list(wanted.values()), by.account_number)
    for model_id in wanted.values():
        if model_id not in found:
            raise NotFound(f"the account has no model {model_id}")
    uploads = {model_id: _single(one) for model_id, one in found.items()}
    named_as = {model_id: workload_id(one) for model_id, one in uploads.items()}
    singles = [one if one is not None else uploads[wanted[at]] for at, one in enumerate(items.workloads)]
    return singles, [id_ if id_ is not None else named_as[wanted[at]] for at, id_ in enumerate(items.ids)]


def subject_of(workload: AnySingle) -> str:
    """What predicts a workload."""
    return workload.type if isinstance(workload, KernelWorkload) else WHOLE_MODEL


def _single(one: specs.Resolved) -> AnySingle:
    assert not isinstance(one.workload, PairWorkload)  # no item of a question is one
    return one.workload


def _check_size(answers: int) -> None:
    if answers > MAX_ANSWERS:
        raise InvalidRequest(
            f"the question has {answers} answers (items x platforms); the limit is {MAX_ANSWERS}", code="too_large"
        )


def _best(
    tx: Transaction, request: LatencyRequest, ids: Sequence[str], platform_ids: Sequence[int]
) -> dict[tuple[int, int], Row[Any]]:
    """By the places of workload and platform."""
    digests = [workload_digest(id_) for id_ in ids]
    known = estimates.known_workloads(tx, digests)
    workloads = {known[digest]: number for number, digest in enumerate(digests) if digest in known}
    pairs = [{"w": w, "p": p} for w in sorted(workloads) for p in sorted(platform_ids)]
    parameters = {
        "pairs": rows_json(pairs),
        "protocols": [protocol.id for protocol in PROTOCOLS.values() if purpose_of(protocol) == "latency"],
        "grades": [grade for grade in Grade if GRADE_ORDER[grade] <= min(GRADE_ORDER[request.min_grade], 2)],
        "age": request.max_age_s,
        "timing": request.timing,
        "now": tx.now,
    }
    found = tx.execute(_BEST, parameters) if pairs else ()
    places = {id_: place for place, id_ in enumerate(platform_ids)}
    return {(workloads[row.w], places[row.p]): row for row in found}


# more launches say more than a newer visit: the steadier protocol goes first, then the newest
_BEST = text("""
    SELECT DISTINCT ON (x.w, x.p) x.w, x.p, m.id, s.median_ms, s.low_ms, s.high_ms, s.normalised_ms, s.grade,
        s.clock_proof, s.interval_coverage, r.measured_at, f.name AS origin
    FROM jsonb_to_recordset(CAST(:pairs AS jsonb)) AS x(w bigint, p int)
    JOIN measurements m ON m.workload_id = x.w AND m.platform_id = x.p AND m.state = 'done' AND m.timing = :timing
    JOIN protocols t ON t.id = m.protocol_id AND t.public_id = ANY(:protocols)
    JOIN results r ON r.measurement_id = m.id AND r.measured_at >= :now - make_interval(secs => :age)
    JOIN summaries s ON s.measurement_id = m.id AND s.active AND s.grade = ANY(:grades)
    JOIN generations g ON g.id = r.generation_id
    JOIN boards b ON b.id = g.board_id AND b.generation_id = g.id
    JOIN farms f ON f.id = m.origin_id
    ORDER BY x.w, x.p, (s.launches >= 3) DESC, r.measured_at DESC
""")


def _to_predict(
    tx: Transaction,
    timing: Timing,
    rows: Sequence[platforms.Found],
    gaps: Sequence[tuple[int, ...]],
    subjects: Sequence[str],
    uploads: Mapping[int, str],
) -> tuple[list[AskedPlatform], AskedKernels]:
    """The platforms with what answers there, and the kernels of the models that are to be predicted."""
    heads: dict[int, dict[str, Head]] = {row.id: {} for row in rows}
    lacking = [row.id for row, each in zip(rows, gaps, strict=True) if each]
    if timing == Timing.ALONE and lacking:
        for head in predictors.active(tx, lacking):
            heads[head.platform_id][head.subject] = head
    parsed = [parse_platform_key(row.key) for row in rows]
    models = {
        place: [number for number in each if subjects[number] == WHOLE_MODEL]
        for place, each in enumerate(gaps)
        if WHOLE_MODEL in heads[rows[place].id]
    }
    places = [place for place, each in models.items() if each]
    found, rules = asked_kernels.fusings(tx, [parsed[place] for place in places])
    fusing = dict(zip(places, found, strict=True))
    wanted = {number for place in places for number in models[place]}
    graphs = [(number, model_id) for number, model_id in uploads.items() if number in wanted]
    asked = [
        AskedPlatform(row.key, parsed[place], gaps[place], heads[row.id], fusing.get(place))
        for place, row in enumerate(rows)
    ]
    return asked, AskedKernels(rules, dict(graphs[: asked_kernels.MAX_UPLOADS]))
