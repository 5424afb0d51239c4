"""The latency question answered: measured, else predicted by what answers now, else why neither.

A question's predictors are looked up in its one transaction, so that a new version is seen at once and never half. They
are read and evaluated after it, and items are named before it: no connection waits while something is computed. Each
kernel and each model is in one batch, which the predictors of all platforms share whose engines fuse alike.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

from benchfarm_api import misses
from benchfarm_api.loaded_predictors import LoadedPredictors
from benchfarm_api.misses import Misses
from benchfarm_api.predicted_rows import PredictedRows, json_text
from benchfarm_core.boards import why_single_use
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.latency import (
    MAX_ANSWERS,
    AnswerRow,
    LatencyAnswer,
    LatencyRequest,
    Measuring,
    OnMiss,
    Pin,
    is_within,
    predicted,
    summed,
    unanswered,
)
from benchfarm_core.latency_columns import columns_of, columns_of_parts
from benchfarm_core.matching import why_not_opened
from benchfarm_core.measurements import Timing
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, UploadedWorkload
from benchfarm_predictor.answers import (
    ModelItem,
    Sheet,
    answer_sheet,
    kernel_sheets,
    model_sheet,
    space_sheet,
    without_kernels,
)
from benchfarm_predictor.known_blocks import RememberedBlocks
from benchfarm_predictor.predictions import MAX_LISTED
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_store import asked_kernels, latency, predictors
from benchfarm_store.asked_kernels import UploadParts, kernel_parts
from benchfarm_store.database import Database
from benchfarm_store.latency import REFUSED, Asked, AskedPlatform, AskedWorkload, Named
from benchfarm_store.predictors import Head
from benchfarm_store.tokens import Caller
from benchfarm_workloads.network_kernels import NetworkKernels, RememberedKernels
from benchfarm_workloads.spaces import space
from benchfarm_workloads.spaces.architectures import Architectures

MAX_NAMED: Final = 5
"""Operators that a refusal names."""

MAX_TEXTS: Final = 200_000
"""Unknown kernels and findings each that all answers of a question tell together, or `LEAST_LISTED` of every answer."""
LEAST_LISTED: Final = 3
LOOKS: Final = 3
"""How often a question is looked up whose predictors are replaced faster than they are read."""
OVERTAKEN: Final = "unavailable"

Load = Callable[[Head], Predictor]


class Remembered(NamedTuple):
    """What is remembered from question to question: predictors, kernels of blocks, and what was said of blocks."""

    predictors: LoadedPredictors
    kernels: RememberedKernels
    blocks: RememberedBlocks


@dataclass(frozen=True, eq=False)
class Answered:
    """A question with what measurements and predictors say of it. Answers are made as they are read: held all at once
    they would take a hundred times as much."""

    asked: Asked
    said: Sequence["_PlatformSaid"]
    tolerance: float | None
    misses: Misses

    @property
    def pin(self) -> Pin:
        """What answers."""
        return self.asked.pin

    @property
    def measuring(self) -> Measuring | None:
        """What is to be measured, where that was asked."""
        return self.misses.measuring

    def rows(self) -> Iterator[AnswerRow]:
        """Items outer, platforms inner; as often as it is called."""
        rows = self.asked.rows(self._rest)
        return rows if self.tolerance is None else map(self._held_to_it, rows)

    def columns(self) -> dict[str, Any]:
        """All rows as the document of columns (`benchfarm_core.latency_columns`)."""
        numbers = self.asked.numbers
        found = None if self._tells_more else [one.rows_of(numbers) for one in self.said]
        if found is None or None in found:
            return columns_of(self.rows())
        return columns_of_parts([rows.columns(numbers) for rows in found if rows is not None], len(numbers))

    @property
    def _tells_more(self) -> bool:
        """Whether rows tell more than what versions say."""
        return self.tolerance is not None or bool(self.misses.job_ids)

    def texts(self, items: range) -> Iterator[str]:
        """The rows of some items that stand one behind the other, each as JSON."""
        places = range(len(self.said))
        return chain.from_iterable(zip(*(self._texts(items, place) for place in places), strict=True))

    def _texts(self, items: range, place: int) -> Iterable[str]:
        """On one platform; most questions have nothing but predictions of one version there."""
        numbers = self.asked.numbers[items.start : items.stop]
        if not self._tells_more:
            rows = self.said[place].rows_of(numbers)
            if rows is not None:
                return rows.texts(items.start, numbers)
        found = (self.asked.row(*at, place, self._rest) for at in zip(items, numbers, strict=True))
        return map(json_text, found if self.tolerance is None else map(self._held_to_it, found))

    def _rest(self, item_no: int, number: int, place: int) -> AnswerRow:
        found = self.said[place].row(item_no, number)
        job_id = self.misses.job_ids.get((number, place))
        return found if job_id is None else {**found, "job_id": job_id}

    def _held_to_it(self, found: AnswerRow) -> AnswerRow:
        assert self.tolerance is not None
        within = None if found["error"] is not None else is_within(self.tolerance, found)
        return {**found, "within_tolerance": within}


def answer(
    database: Database,
    remembered: Remembered,
    request: LatencyRequest,
    by: Caller,
    budget_s: float,
) -> Answered:
    """Every item on every platform. Raises as `latency.ask`; what cannot be predicted is an answer's `error`.

    `budget_s`: device-seconds that a token may have queued in a day by questions.
    """
    if len(request.items) * len(set(request.platforms)) > MAX_ANSWERS:
        with database.transaction(read_only=True) as tx:
            latency.check(tx, request)
    named = latency.named(request)
    asked, said = _said_of_kept(database, remembered, request, by, named)
    found = Misses()
    if request.on_miss == OnMiss.MEASURE:
        found = misses.queue(database, asked, request, by, lambda *at: said[at[2]].answer(*at[:2]), budget_s)
    return Answered(asked, said, request.tolerance, found)


def _said_of_kept(
    database: Database, remembered: Remembered, request: LatencyRequest, by: Caller, named: Named
) -> tuple[Asked, list["_PlatformSaid"]]:
    """What was asked, and what is said by platform. Looked up anew where, before a version's file was read, so many
    newer ones came that it is not kept: nobody loses his question to a refresh."""
    for _ in range(LOOKS):
        answering = _looked_up(database, remembered, request, by, named)
        said = _all_said(answering)
        if request.pin is not None or not any(one.is_overtaken for one in said):
            break
    return answering.asked, said


def _looked_up(
    database: Database, remembered: Remembered, request: LatencyRequest, by: Caller, named: Named
) -> "_Answering":
    with database.transaction(read_only=True) as tx:
        asked = latency.ask(tx, request, by, named)
    uploads = asked_kernels.upload_parts(asked.kernels, partial(_graphs, database))
    return _Answering(
        asked,
        tuple(map(remembered.kernels.of, asked.kernels.rules)),
        remembered.blocks,
        uploads,
        lambda head: remembered.predictors.get(head, partial(_file, database, head)),
        listed_of(len(asked.numbers) * len(asked.platforms)),
        request.on_miss == OnMiss.ERROR,
        request.pin is not None and request.pin.as_of is not None,
    )


def listed_of(answers: int) -> int:
    """How many unknown kernels, and how many findings, each of so many answers tells."""
    return min(max(MAX_TEXTS // max(answers, 1), LEAST_LISTED), MAX_LISTED)


def _graphs(database: Database, model_ids: Sequence[str]) -> dict[str, Any]:
    with database.transaction(read_only=True) as tx:
        return asked_kernels.graphs(tx, model_ids)


def _file(database: Database, head: Head) -> bytes:
    with database.transaction(read_only=True) as tx:
        return predictors.file(tx, head.id)


@dataclass(frozen=True, eq=False)
class _Answering:
    """What answers a question: kernels by rules, blocks of spaces, kernels of its uploads, predictors, how much each
    answer tells, whether measurements alone were asked for, and whether what came after a pin's moment does not
    count."""

    asked: Asked
    kernels: Sequence[NetworkKernels]
    blocks: RememberedBlocks
    uploads: UploadParts
    load: Load
    listed: int
    measured_only: bool
    is_pinned: bool


@dataclass(frozen=True)
class _Refusal:
    """Why something is not predicted: a code and a text."""

    code: str
    detail: str


@dataclass(frozen=True, eq=False)
class _PlatformSaid:
    """What is said on one platform by subject; `refusals`: by number, of workloads that nobody can predict here."""

    asked: Asked
    place: int
    by_subject: Mapping[str, PredictedRows | _Refusal]
    refusals: Mapping[int, _Refusal]

    @property
    def key(self) -> str:
        return self.asked.platforms[self.place].key

    @property
    def is_overtaken(self) -> bool:
        """Whether a version's file went before it was read."""
        return any(isinstance(one, _Refusal) and one.code == OVERTAKEN for one in self.by_subject.values())

    def rows_of(self, numbers: Collection[int]) -> PredictedRows | None:
        """What one version says of all of these; None where it does not, or some are measured or refused."""
        if self.refusals or len(self.by_subject) != 1 or REFUSED in numbers:
            return None
        best = self.asked.best
        if best and any((number, self.place) in best for number in numbers):
            return None
        (said,) = self.by_subject.values()
        return said if isinstance(said, PredictedRows) else None

    def row(self, item_no: int, number: int) -> AnswerRow:
        said = self.refusals.get(number) or self.by_subject[self.asked.subjects[number]]
        return (
            said.row(item_no, number) if isinstance(said, PredictedRows) else vars(self._unsaid(item_no, number, said))
        )

    def answer(self, item_no: int, number: int) -> LatencyAnswer:
        return LatencyAnswer(**self.row(item_no, number))

    def _unsaid(self, item_no: int, number: int, said: _Refusal) -> LatencyAnswer:
        if number in self.asked.lists and said.code == "no_predictor" and self.asked.timing == Timing.ALONE:
            return self._sum(item_no, number)
        return unanswered(item_no, self.key, self.asked.timing, said.code, said.detail)

    def _sum(self, item_no: int, number: int) -> LatencyAnswer:
        """A kernel list that nobody predicts as a whole."""
        parts = []
        for kernel, count in self.asked.lists[number]:
            one = self.asked.measured(item_no, kernel, self.place) or self.answer(item_no, kernel)
            if one.error is not None:
                return unanswered(item_no, self.key, self.asked.timing, one.error, f"of its kernels: {one.detail}")
            parts.append((one, count))
        return summed(item_no, self.key, parts)


def _all_said(answering: _Answering) -> list[_PlatformSaid]:
    """By the places of platforms. Whole models of one way to fuse at a time."""
    asked = answering.asked
    kernels = kernel_sheets(_kernels(asked))
    said: dict[int, _PlatformSaid] = {}
    for fusing in {one.fusing for one in asked.platforms}:
        places = [place for place, one in enumerate(asked.platforms) if one.fusing == fusing]
        models, refusals = _models(answering, places, fusing)
        sheets = kernels if models is None else {**kernels, WHOLE_MODEL: models}
        said |= {place: _platform_said(answering, place, sheets, refusals) for place in places}
    return [said[place] for place in range(len(asked.platforms))]


def _kernels(asked: Asked) -> Iterable[tuple[int, str, Mapping[str, int | str]]]:
    """The kernels that some platform can predict."""
    predicted_here = [(one.gaps, one.heads.keys() - {WHOLE_MODEL}) for one in asked.platforms]
    wanted = {number for gaps, types in predicted_here if types for number in gaps if asked.subjects[number] in types}
    for number in sorted(wanted):
        workload = asked.workloads[number]
        if isinstance(workload, KernelWorkload):
            yield number, workload.type, workload.config


def _models(
    answering: _Answering, places: Iterable[int], fusing: int | None
) -> tuple[Sheet | None, dict[int, _Refusal]]:
    """The models that these platforms of one way to fuse predict, None where there is none; and which have no kernels.

    By number of the workload why it is in no sheet.
    """
    refusals: dict[int, _Refusal] = {}
    if fusing is None:
        return None, refusals
    asked = answering.asked
    gaps = {number for place in places for number in asked.platforms[place].gaps}
    wanted = sorted(number for number in gaps if asked.subjects[number] == WHOLE_MODEL)
    architectures = _of_one_space(asked.workloads, wanted)
    if architectures is not None:
        return _space_models(answering, wanted, architectures, fusing)
    sheet = model_sheet(_model_items(answering, wanted, fusing, refusals))
    return sheet if sheet.rows else None, refusals


def _space_models(
    answering: _Answering, wanted: Sequence[int], architectures: Architectures, fusing: int
) -> tuple[Sheet | None, dict[int, _Refusal]]:
    """The same of the wanted architectures of one space, which stand in their order."""
    kernels = answering.kernels[fusing]
    blocks = answering.blocks.of(architectures.space, kernels)
    sheet = space_sheet(blocks, kernels, wanted, architectures.columns)
    bare = without_kernels(sheet)
    if not bare:
        return sheet, {}
    refusals: dict[int, _Refusal] = {}
    for row in bare:
        parts = kernels.parts(architectures.space, architectures[row].genes)
        refusals[wanted[row]] = _Refusal("no_predictor", _nothing_known(name for one in parts for name in one.unknown))
    rest = [row for row, number in enumerate(wanted) if number not in refusals]
    if not rest:
        return None, refusals
    return space_sheet(blocks, kernels, [wanted[row] for row in rest], architectures.take(rest).columns), refusals


def _of_one_space(workloads: Sequence[AskedWorkload], wanted: Sequence[int]) -> Architectures | None:
    """The wanted ones, where all are architectures of one space, as searches ask."""
    if not wanted:
        return None
    if isinstance(workloads, Architectures):
        return workloads.take(wanted)
    found = [one for number in wanted if isinstance(one := workloads[number], ArchitectureWorkload)]
    if len(found) < len(wanted) or len({one.space for one in found}) > 1:
        return None
    return Architectures.of(space(found[0].space), [one.genes for one in found])


def _model_items(
    answering: _Answering, wanted: Iterable[int], fusing: int, refusals: dict[int, _Refusal]
) -> Iterable[ModelItem]:
    """The kernel lists one after the other; what has none is added to the refusals."""
    asked, uploads, known = answering.asked, answering.uploads, answering.kernels[fusing]
    for number in wanted:
        try:
            parts = kernel_parts(asked.kernels, uploads, number, asked.workloads[number], fusing, known)
        except (InvalidRequest, NotFound) as error:
            refusals[number] = _Refusal(error.code, error.detail)
            continue
        if any(part.kernels for part in parts):
            yield number, parts
        else:
            refusals[number] = _Refusal("no_predictor", _nothing_known(name for part in parts for name in part.unknown))


def _nothing_known(unknown: Iterable[str]) -> str:
    names = list(dict.fromkeys(unknown))
    more = ", ..." if len(names) > MAX_NAMED else ""
    found = f": {', '.join(names[:MAX_NAMED])}{more}" if names else ""
    return f"nothing usable is measured, and the model has no kernel of the catalogue by which to predict it{found}"


def _platform_said(
    answering: _Answering, place: int, sheets: Mapping[str, Sheet], refusals: Mapping[int, _Refusal]
) -> _PlatformSaid:
    asked = answering.asked
    one = asked.platforms[place]
    by_subject: dict[str, PredictedRows | _Refusal] = {}
    why = why_single_use(one.key)
    for subject in {asked.subjects[number] for number in one.gaps}:
        head, sheet = one.heads.get(subject), sheets.get(subject)
        if why is not None:
            by_subject[subject] = _Refusal("platform_single_use", why)
        elif answering.measured_only:
            by_subject[subject] = _Refusal("not_measured", "nothing usable is measured; a job measures it")
        elif head is None:
            by_subject[subject] = _no_predictor(asked.timing, subject, one.key, is_pinned=answering.is_pinned)
        elif sheet is not None:  # else each of its models is refused for itself
            by_subject[subject] = _sheet_said(head, one.key, sheet, answering)
    return _PlatformSaid(asked, place, by_subject, {**refusals, **_unopened(asked, one)})


def _sheet_said(head: Head, platform: str, sheet: Sheet, answering: _Answering) -> PredictedRows | _Refusal:
    try:
        found = answer_sheet(answering.load(head), sheet, answering.listed)
    except InvalidRequest as error:
        return _Refusal(error.code, f"version {head.version} cannot answer, adapt the platform anew: {error.detail}")
    except NotFound as error:
        return _Refusal(OVERTAKEN, f"version {head.version} was replaced meanwhile, ask again: {error.detail}")
    return PredictedRows(
        like=_like(head, platform),
        rows=sheet.rows,
        ms=found.latency_ms.tolist(),
        low_ms=found.low_ms.tolist(),
        high_ms=found.high_ms.tolist(),
        coverage=found.coverage.tolist(),
        unknown=found.unknown,
        outside=found.outside,
    )


def _like(head: Head, platform: str) -> AnswerRow:
    """An answer of a version on a platform, without its numbers."""
    id_, version = head.id, head.version
    return vars(
        predicted(
            0, platform, ms=0.0, low_ms=0.0, high_ms=0.0, coverage=0.0, predictor_id=id_, predictor_version=version
        )
    )


def _no_predictor(timing: Timing, subject: str, key: str, *, is_pinned: bool) -> _Refusal:
    """What is missing, and what would make it."""
    if timing == Timing.IN_SITU and subject == WHOLE_MODEL:
        return _Refusal("timing_impossible", "only kernels are timed in situ: models have no carrier")
    if timing == Timing.IN_SITU:
        why = "times in situ are not predicted; a job with timing in_situ measures it"
        return _Refusal("no_predictor", f"nothing usable is measured, and {why}")
    what = "whole models" if subject == WHOLE_MODEL else f"kernels {subject}"
    makes = f"a job measures it, an adaptation makes a predictor: benchfarm adapt {key}"
    now = "answered here at the pin's moment" if is_pinned else "answers here"
    return _Refusal("no_predictor", f"nothing usable is measured, and no predictor of {what} {now}; {makes}")


def _unopened(asked: Asked, one: AskedPlatform) -> dict[int, _Refusal]:
    """What the platform cannot run at all, whatever is known of its kernels."""
    if isinstance(asked.workloads, Architectures):  # all of one kind
        reason = why_not_opened(asked.workloads[one.gaps[0]], one.platform) if one.gaps else None
        return {} if reason is None else dict.fromkeys(one.gaps, _Refusal("format_not_opened", reason))
    why: dict[str, _Refusal | None] = {}
    found: dict[int, _Refusal] = {}
    for number in one.gaps:
        workload = asked.workloads[number]
        kind = _kind(workload)
        if kind not in why:
            reason = why_not_opened(workload, one.platform)
            why[kind] = None if reason is None else _Refusal("format_not_opened", reason)
        refusal = why[kind]
        if refusal is not None:
            found[number] = refusal
    return found


def _kind(workload: AskedWorkload) -> str:
    """What decides whether a platform opens it."""
    return workload.format if isinstance(workload, UploadedWorkload) else workload.kind
