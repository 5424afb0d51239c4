"""The latency question: what is measured of it, and what predictors must know to say the rest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.boards import is_single_use
from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.latency import MAX_ANSWERS, AnswerRow, LatencyAnswer, LatencyItem, LatencyRequest, Pin, unanswered
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import ClockProof, Platform, parse_platform_key
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.protocols import PROTOCOLS, purpose_of
from benchfarm_core.summaries import Grade, meets
from benchfarm_core.values import digest
from benchfarm_core.workloads import (
    AnySingle,
    ArchitectureRequest,
    KernelListRequest,
    KernelWorkload,
    PairWorkload,
    UploadRequest,
    architecture_ids,
    workload_id,
)
from benchfarm_store import asked_kernels, fusions, pins, platforms, specs
from benchfarm_store.asked_kernels import AskedKernels
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, rows_json
from benchfarm_store.predictors import Head
from benchfarm_store.tokens import Caller
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import space
from benchfarm_workloads.spaces.architectures import Architectures

AskedWorkload = AnySingle | KernelListRequest
"""A kernel list has no workload of its own: nobody can run it."""
REFUSED: Final = -1
"""The number of an item that is no workload."""


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
        numbers: per item that of its workload; `REFUSED` where it is none.
        workloads, subjects: by number; a subject is the workload's kernel type, or `WHOLE_MODEL`.
        platforms: each once, in the order of the question.
        best: by number and place of platform the row of the best usable measurement.
        lists: of kernel lists, by number, the numbers of their kernels, and how often each occurs; none where every
            platform has what predicts whole models.
        refusals: by item, why it is no workload.
        as_of: when it was asked; of a pinned question the moment of its pin.
        pin: what answers, for whoever wants the same to answer again.
    """

    timing: Timing
    numbers: Sequence[int]
    workloads: Sequence[AskedWorkload]
    subjects: Sequence[str]
    platforms: Sequence[AskedPlatform]
    kernels: AskedKernels
    best: Mapping[tuple[int, int], Row[Any]]
    as_of: datetime
    lists: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    refusals: Mapping[int, "Refused"] = field(default_factory=dict)
    pin: Pin = field(default_factory=Pin)

    def rows(self, rest: Callable[[int, int, int], AnswerRow]) -> Iterator[AnswerRow]:
        """Items outer, platforms inner, one after the other: two hundred thousand at once are half a gigabyte.

        `rest` answers what is not measured, by item, number and place of platform.
        """
        places = range(len(self.platforms))
        for item_no, number in enumerate(self.numbers):
            for place in places:
                yield self.row(item_no, number, place, rest)

    def row(self, item_no: int, number: int, place: int, rest: Callable[[int, int, int], AnswerRow]) -> AnswerRow:
        """One of them."""
        if number == REFUSED:
            return vars(unanswered(item_no, self.platforms[place].key, self.timing, *self.refusals[item_no]))
        measured = self.measured(item_no, number, place) if self.best else None
        return rest(item_no, number, place) if measured is None else vars(measured)

    def measured(self, item_no: int, number: int, place: int) -> LatencyAnswer | None:
        """What is measured of a workload on a platform, told of an item; None where nothing usable is."""
        row = self.best.get((number, place))
        if row is None:
            return None
        return LatencyAnswer(
            item_no=item_no,
            platform=self.platforms[place].key,
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
            age_s=max((self.as_of - row.measured_at).total_seconds(), 0.0),
            error=None,
            detail=None,
        )


class Refused(NamedTuple):
    """Why an item of a question is no workload: a code, a text, and the part of the request."""

    error: str
    detail: str
    field: str | None


class Named(NamedTuple):
    """The items of a question as they are known without the farm: by item the workload and its id, None for uploads. Of
    what is refused the id is None, and its workload is not looked at."""

    workloads: Sequence[AskedWorkload | None]
    ids: list[str | None]
    refusals: dict[int, Refused]


def named(request: LatencyRequest) -> Named:
    """What takes most of the time of naming what is asked; no connection is needed for it. What the catalogue or a
    search space refuses costs its own answers alone. Architectures that were read gene by gene are named so. Of others
    equal items are named once, but for architectures, which hardly ever are: to look whether one was there takes as
    long as to name it."""
    if request.architectures is not None and (at_once := _named_at_once(request.architectures)) is not None:
        return at_once
    workloads: list[AskedWorkload | None] = []
    found = Named(workloads, [], {})
    known: dict[str, _NamedItem] = {}
    for index, item in enumerate(request.items):
        if isinstance(item, ArchitectureRequest | UploadRequest):
            one = _item_named(item)
        else:
            key = item.model_dump_json()
            one = known.get(key) or known.setdefault(key, _item_named(item))
        if one.error is not None:
            found.refusals[index] = _refused(index, one.error)
        workloads.append(one.workload)
        found.ids.append(one.id)
    return found


def _named_at_once(items: ArchitectureColumns) -> Named | None:
    """None where each of them is refused, which is told in words of its own."""
    try:
        found = space(items.space)
    except InvalidRequest:
        return None
    misfits = found.misfits(items)
    if len(misfits) == len(items):
        return None
    genes = {name: column.given for name, column in items.genes.items()}
    ids: list[str | None] = [*architecture_ids(found.name, found.version, genes)]
    refusals: dict[int, Refused] = {}
    for index in misfits:
        error = _item_named(items[index]).error
        assert error is not None  # what the space refuses
        ids[index], refusals[index] = None, _refused(index, error)
    return Named(Architectures(found, items), ids, refusals)


def _refused(index: int, error: InvalidRequest) -> Refused:
    place = f"items.{index}.{error.field}" if error.field else f"items.{index}"
    return Refused(error.code, error.detail, place)


class _NamedItem(NamedTuple):
    """An item's workload and its id, none of an upload; or why it is none."""

    workload: AskedWorkload | None = None
    id: str | None = None
    error: InvalidRequest | None = None


def _item_named(item: LatencyItem) -> _NamedItem:
    try:
        if isinstance(item, ArchitectureRequest):  # thousands; costs, which others have, are not wanted here
            workload: AskedWorkload = space(item.space).workload(item.genes)
        elif isinstance(item, KernelListRequest):
            workload = _canonical(item)
        elif (resolved := specs.resolve_generated(item)) is not None:
            workload = _single(resolved)
        else:
            return _NamedItem()
    except InvalidRequest as error:
        return _NamedItem(error=error)
    return _NamedItem(workload, _id_of(workload))


def _canonical(item: KernelListRequest) -> KernelListRequest:
    """The kernels as workloads name them. Raises InvalidRequest for the first that is none."""
    kernels = []
    for index, one in enumerate(item.kernels):
        try:
            kernels.append(one.model_copy(update={"config": kernel_type(one.type).workload(one.config).config}))
        except InvalidRequest as error:
            place = f"kernels.{index}.{error.field}" if error.field else f"kernels.{index}"
            raise InvalidRequest(error.detail, code=error.code, field=place) from error
    return KernelListRequest(kernels=tuple(kernels))


def _id_of(workload: AskedWorkload) -> str:
    """Of a kernel list a text that no workload has."""
    return f"kl_{digest(workload)}" if isinstance(workload, KernelListRequest) else workload_id(workload)


def check(tx: Transaction, request: LatencyRequest) -> None:
    """Whether a question that names many platforms is one, before its items are looked at.

    Raises TooLarge above `MAX_ANSWERS`.
    """
    _check_size(len(request.items) * len(platforms.find_all(tx, request.platforms)))


def ask(tx: Transaction, request: LatencyRequest, by: Caller, items: Named | None = None) -> Asked:
    """Every item on every platform: of the fresh results of that timing, of any protocol of the farm's own, the best
    grade's newest. On platforms whose boards' results are of single use nothing is known.

    What predicts the rest is looked up here too, so that a question sees each predictor before it was replaced or
    after, and never both. Times in situ are not predicted.

    Args:
        items: what `named` made of the request's before the transaction; None: it is done here.

    Raises TooLarge above `MAX_ANSWERS`, among which kernels count that are summed up; NotFound, Conflict and
    InvalidRequest for a pin that cannot be held.
    """
    rows = platforms.find_all(tx, request.platforms)
    answers = len(request.items) * len(rows)
    _check_size(answers)
    as_of = pins.moment(tx, request.pin)
    wanted = _uploads(request)
    singles, ids, refusals = _with_uploads(tx, wanted, items or named(request), by)
    places = {id_: number for number, id_ in enumerate(dict.fromkeys(id_ for id_ in ids if id_ is not None))}
    numbers = [REFUSED if id_ is None else places[id_] for id_ in ids]
    workloads = _different(singles, numbers)
    uploads = {numbers[at]: model_id for at, model_id in wanted.items() if numbers[at] != REFUSED}
    reused = {place: row.id for place, row in enumerate(rows) if not is_single_use(row.key)}
    best = _best(tx, request, as_of, dict(enumerate(places)), reused)
    every = range(len(workloads))
    gaps = [[n for n in every if (n, place) not in best] if best else [*every] for place in range(len(rows))]
    choice = pins.choice(tx, request, [id_ for place, id_ in reused.items() if gaps[place]])
    summing = {place: id_ for place, id_ in reused.items() if choice.predicts and not choice.has(id_, WHOLE_MODEL)}
    first = len(places)
    lists, workloads = _listed(workloads, places, answers, len(summing))
    if lists:
        best |= _best(tx, request, as_of, dict(list(enumerate(places))[first:]), summing)
        for place in summing:
            gaps[place] += [n for n in range(first, len(places)) if (n, place) not in best]
    subjects = _subjects(workloads)
    lacking = [sorted({subjects[n] for n in each}) if place in reused else [] for place, each in enumerate(gaps)]
    heads = [choice.heads(row.id, each) for row, each in zip(rows, lacking, strict=True)]
    asked, kernels, fused = _to_predict(tx, heads, rows, gaps, subjects, uploads)
    pin = pins.make(request.pin, [head for each in heads for head in each.values()], fused, as_of)
    return Asked(request.timing, numbers, workloads, subjects, asked, kernels, best, as_of, lists, refusals, pin)


def _different(workloads: Sequence[AskedWorkload | None], numbers: Sequence[int]) -> Sequence[AskedWorkload]:
    """By number, of which each follows where those before have all been met."""
    met: list[int] = []
    for at, number in enumerate(numbers):
        if number == len(met):
            met.append(at)
    if isinstance(workloads, Architectures):
        return workloads.take(met)
    return [one for at in met if (one := workloads[at]) is not None]


def _listed(
    workloads: Sequence[AskedWorkload], places: dict[str, int], answers: int, summing: int
) -> tuple[dict[int, list[tuple[int, int]]], Sequence[AskedWorkload]]:
    """The kernels of kernel lists by number, and the question's workloads with these kernels, each once.

    Nothing where no platform sums them up. Raises TooLarge where they make too much of a question of so many answers.
    """
    if not summing or isinstance(workloads, Architectures):
        return {}, workloads
    lists = {number: one for number, one in enumerate(workloads) if isinstance(one, KernelListRequest)}
    kernels = {(one.type, *one.config.items()): one for each in lists.values() for one in each.kernels}
    _check_size(answers, len(kernels) * summing)
    known: dict[tuple[object, ...], int] = {}
    added: list[AskedWorkload] = []
    for key, one in kernels.items():
        kernel = kernel_type(one.type).workload(one.config)
        known[key] = places.setdefault(workload_id(kernel), len(places))
        if known[key] == len(workloads) + len(added):
            added.append(kernel)
    counted = {
        number: [(known[one.type, *one.config.items()], one.count) for one in each.kernels]
        for number, each in lists.items()
    }
    return counted, [*workloads, *added]


def _uploads(request: LatencyRequest) -> dict[int, str]:
    """Models by item."""
    if request.architectures is not None:
        return {}
    return {at: item.model_id for at, item in enumerate(request.items) if isinstance(item, UploadRequest)}


def _with_uploads(tx: Transaction, wanted: Mapping[int, str], items: Named, by: Caller) -> Named:
    """The items with those that are uploads; a model of another account is a refusal."""
    if not wanted:
        return items
    found = specs.find_uploads(tx, list(wanted.values()), by.account_number)
    uploads = {model_id: _single(one) for model_id, one in found.items()}
    named_as = {model_id: workload_id(one) for model_id, one in uploads.items()}
    singles, ids, refusals = list(items.workloads), list(items.ids), dict(items.refusals)
    for at, model_id in wanted.items():
        if model_id in uploads:
            singles[at], ids[at] = uploads[model_id], named_as[model_id]
        else:
            refusals[at] = Refused("not_found", f"the account has no model {model_id}", f"items.{at}.model_id")
    return Named(singles, ids, refusals)


def _subjects(workloads: Sequence[AskedWorkload]) -> list[str]:
    if isinstance(workloads, Architectures):
        return [WHOLE_MODEL] * len(workloads)
    return [*map(subject_of, workloads)]


def subject_of(workload: AskedWorkload) -> str:
    """What predicts a workload."""
    return workload.type if isinstance(workload, KernelWorkload) else WHOLE_MODEL


def _single(one: specs.Resolved) -> AnySingle:
    assert not isinstance(one.workload, PairWorkload)  # no item of a question is one
    return one.workload


def _check_size(answers: int, kernels: int = 0) -> None:
    """`kernels`: of kernel lists that are summed up, on each platform that does."""
    if answers + kernels <= MAX_ANSWERS:
        return
    summed = f" and {kernels} kernels of kernel lists to sum up where no predictor of whole models answers"
    detail = f"the question has {answers} answers (items x platforms){summed if kernels else ''}"
    raise TooLarge(f"{detail}; the limit is {MAX_ANSWERS}")


def measured_now(tx: Transaction, request: LatencyRequest, platform_id: int, ids: Sequence[str]) -> set[str]:
    """The ids of workloads of which the platform has a usable measurement by now, whatever the question's pin says."""
    found = _best(tx, request, tx.now, dict(enumerate(ids)), {0: platform_id})
    return {ids[number] for number, _ in found}


def _best(
    tx: Transaction, request: LatencyRequest, as_of: datetime, ids: Mapping[int, str], rows: Mapping[int, int]
) -> dict[tuple[int, int], Row[Any]]:
    """By number of the workload and place of the platform, of which these are ids and rows; `ids` of kernel lists are
    those of no workload."""
    numbers = {id_.removeprefix("w_"): number for number, id_ in ids.items() if id_.startswith("w_")}
    known = specs.known_workloads(tx, numbers)
    workloads = {row: numbers[digest.replace("-", "")] for digest, row in known.items()}
    pairs = [{"w": w, "p": p} for w in sorted(workloads) for p in sorted(rows.values())]
    parameters = {
        "pairs": rows_json(pairs),
        "protocols": [protocol.id for protocol in PROTOCOLS.values() if purpose_of(protocol) == "latency"],
        "grades": [grade for grade in Grade if meets(grade, request.min_grade)],
        "age": request.max_age_s,
        "timing": request.timing,
        "now": as_of,
        "is_pinned": as_of != tx.now,
    }
    found = tx.execute(_BEST, parameters) if pairs else ()
    places = {id_: place for place, id_ in rows.items()}
    return {(workloads[row.w], places[row.p]): row for row in found}


# what is too old does not count at all, so among the rest the better grade goes first, then the steadier protocol
# (more launches say more than a newer visit), then the newest; grades are letters in their order
_BEST = text("""
    SELECT DISTINCT ON (x.w, x.p) x.w, x.p, m.id, s.median_ms, s.low_ms, s.high_ms, s.normalised_ms, s.grade,
        s.clock_proof, s.interval_coverage, r.measured_at, f.name AS origin
    FROM jsonb_to_recordset(CAST(:pairs AS jsonb)) AS x(w bigint, p int)
    JOIN measurements m ON m.workload_id = x.w AND m.platform_id = x.p AND m.state = 'done' AND m.timing = :timing
    JOIN protocols t ON t.id = m.protocol_id AND t.public_id = ANY(:protocols)
    JOIN results r ON r.measurement_id = m.id AND r.measured_at >= :now - make_interval(secs => :age)
        AND (r.measured_at <= :now OR NOT :is_pinned)
    JOIN summaries s ON s.measurement_id = m.id AND s.active AND s.grade = ANY(:grades)
    JOIN generations g ON g.id = r.generation_id
    JOIN boards b ON b.id = g.board_id AND b.generation_id = g.id
    JOIN farms f ON f.id = m.origin_id
    ORDER BY x.w, x.p, s.grade, (s.launches >= 3) DESC, r.measured_at DESC, m.id DESC
""")


def _to_predict(
    tx: Transaction,
    heads: Sequence[Mapping[str, Head]],
    rows: Sequence[platforms.Found],
    gaps: Sequence[Sequence[int]],
    subjects: Sequence[str],
    uploads: Mapping[int, str],
) -> tuple[list[AskedPlatform], AskedKernels, dict[str, str]]:
    """The platforms with what answers there, the kernels of the models that are to be predicted, and by platform a hash
    of how its engine fuses these, as what answers there learnt it."""
    parsed = [parse_platform_key(row.key) for row in rows]
    models = {
        place: [number for number in each if subjects[number] == WHOLE_MODEL]
        for place, each in enumerate(gaps)
        if WHOLE_MODEL in heads[place]
    }
    places = list(models)
    found, rules = asked_kernels.fusings(tx, [(parsed[place], heads[place][WHOLE_MODEL].id) for place in places])
    fusing = dict(zip(places, found, strict=True))
    wanted = {number for place in places for number in models[place]}
    graphs = [(number, model_id) for number, model_id in uploads.items() if number in wanted]
    asked = [
        AskedPlatform(row.key, parsed[place], tuple(gaps[place]), heads[place], fusing.get(place))
        for place, row in enumerate(rows)
    ]
    hashes = [fusions.rules_digest(each) for each in rules]
    fused = {rows[place].key: hashes[at] for place, at in fusing.items()}
    return asked, AskedKernels(rules, dict(graphs[: asked_kernels.MAX_UPLOADS])), fused
