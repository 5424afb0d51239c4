"""`Client`: everything a person or a program asks of a farm."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Self
from uuid import uuid4

import httpx2

from benchfarm import latencies, waiting
from benchfarm.accounts import AccountCalls
from benchfarm.adaptations import Adaptations
from benchfarm.board_models import BoardModels
from benchfarm.bundles import Bundles
from benchfarm.calls import checked
from benchfarm.catalogue import CatalogueCalls
from benchfarm.comparisons import comparison_fields, first_item
from benchfarm.connection import Connection, path_part
from benchfarm.exports import Exports
from benchfarm.lab import LabCalls
from benchfarm.latencies import Item, Latencies
from benchfarm.measurement_sets import MeasurementSets
from benchfarm.pool import Pool
from benchfarm.predictors import Predictors
from benchfarm.results import Results
from benchfarm.retries import Retries
from benchfarm.spaces import Spaces
from benchfarm_core.accounts import WhoAmI
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.events import Event
from benchfarm_core.fusion import ModelKernels
from benchfarm_core.jobs import DryRun, ItemState, ItemView, JobRequest, JobState, JobView, WhyView
from benchfarm_core.latency import Pin
from benchfarm_core.measurements import Timing
from benchfarm_core.views import ListedModel, MeasurementView, ModelView, ResultView
from benchfarm_core.workloads import WorkloadRequest

JOBS_PAGE_ITEMS = 50
"""Who lists jobs mostly wants to see the newest."""
UPLOAD_TIMEOUT_S = 180.0
"""The farm opens an upload in a limited child before it answers, and others may be before it."""


class Client(LabCalls, CatalogueCalls, AccountCalls):
    """A farm as one token sees it. Use it as a context manager, share it between threads.

    Lists are iterators that ask for one page after the other. All errors are those of `benchfarm_core.errors`, the
    same classes that the farm raises; `request_id` on them finds the request in the farm's log.

    Args:
        url: `https://host`, or `http://` to this very machine; anything else would send the token in clear.
        token: the bearer token; None reaches the public routes only.
        transport: what carries the requests; tests pass an application in the same process.
        ca_file: certificates of a lab's own authority.
        retries: when requests are sent again; the default tries for up to 30 s.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        transport: httpx2.BaseTransport | None = None,
        ca_file: Path | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._connection = Connection(url, token, transport=transport, ca_file=ca_file, retries=retries)
        self.adaptations = Adaptations(self._connection)
        self.bundles = Bundles(self._connection)
        self.measurement_sets = MeasurementSets(self._connection)
        self.predictors = Predictors(self._connection)
        self.pool = Pool(self._connection)
        self.exports = Exports(self._connection)
        self.spaces = Spaces(self._connection)
        self.board_models = BoardModels(self._connection)

    @property
    def url(self) -> str:
        """The farm's URL without /v1."""
        return self._connection.url

    def close(self) -> None:
        """Close the kept connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def whoami(self) -> WhoAmI:
        """The account and the role of the token."""
        return self._connection.read(WhoAmI, "/whoami")

    # models

    def upload_model(
        self,
        source: Path | str | bytes,
        *,
        name: str | None = None,
        dims: Mapping[str, int] | None = None,
        ints: Mapping[str, int] | None = None,
    ) -> ModelView:
        """Upload an ONNX or TFLite file, given by its path or as bytes; its own bytes say which it is.

        The same bytes and dimensions are the same model. A TFLite file runs as it is: on platforms with precision
        `as_given` alone.

        Args:
            source: the file.
            name: for people; by default that of the file.
            dims: numbers for dimensions that have none, by dimension (`batch`) or by place (`input[0]`).
            ints: inputs that take integers, with the limit that these stay below.

        Raises:
            InvalidRequest: the farm refuses the model, or the file cannot be read or is no regular one.
        """
        given = name or ("model.onnx" if isinstance(source, bytes) else Path(source).name)
        with _opened(source) as file:
            answer = self._connection.request(
                "POST",
                "/models",
                params={"name": given, "dims": _pairs(dims), "ints": _pairs(ints)},
                file=file,
                headers={"Content-Type": "application/octet-stream"},
                repeatable=True,
                read_timeout_s=UPLOAD_TIMEOUT_S,
            )
        return self._connection.value(ModelView, answer)

    def models(self) -> Iterator[ListedModel]:
        """The account's uploaded models; `model` has the operator graph of one."""
        return self._pages(ListedModel, "/models")

    def model(self, model_id: str) -> ModelView:
        """One uploaded model with its operator graph."""
        return self._connection.read(ModelView, f"/models/{path_part(model_id)}")

    def model_kernels(
        self, model_id: str, platform: str, config: Mapping[str, int | str] | None = None
    ) -> ModelKernels:
        """What a platform's engine would compute as one kernel each; a generated model's id is its name, and `config`
        has its columns that differ from the defaults."""
        path = f"/models/{path_part(model_id)}/kernels"
        columns = [f"{name}:{value}" for name, value in (config or {}).items()]
        return self._connection.read(ModelKernels, path, params={"platform": platform, "config": columns})

    def delete_model(self, model_id: str) -> None:
        """Forget an uploaded model; results that name it stay."""
        self._connection.request("DELETE", f"/models/{path_part(model_id)}")

    # jobs

    def submit(
        self, request: JobRequest | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> JobView:
        """Submit a job, given whole or by its fields (`workloads=[...]`, `platforms=[...]`, ...).

        Every call carries an Idempotency-Key, a fresh one by default, so that a repeated sending never makes a second
        job. Pass your own to make the call itself safe to repeat, also in another process.
        """
        answer = self._connection.request(
            "POST",
            "/jobs",
            json=_job_request(request, fields),
            headers={"Idempotency-Key": idempotency_key or str(uuid4())},
            repeatable=True,
        )
        return self._connection.value(JobView, answer)

    def dry_run(self, request: JobRequest | None = None, **fields: Any) -> DryRun:
        """What a job would do: what is known, what would be measured, how long that takes."""
        answer = self._connection.request(
            "POST", "/jobs", params={"dry_run": "true"}, json=_job_request(request, fields), repeatable=True
        )
        return self._connection.value(DryRun, answer)

    def job(self, job_id: str, *, wait_s: float | None = None) -> JobView:
        """The job as it stands, or as it stands after its next change within `wait_s`."""
        return waiting.get_job(self._connection, job_id, wait_s=wait_s)

    def jobs(self, *, state: JobState | None = None, label: str | None = None) -> Iterator[JobView]:
        """The account's jobs, the newest first; `label` is `name` or `name=value`."""
        return self._pages(JobView, "/jobs", {"state": state, "label": label}, page_items=JOBS_PAGE_ITEMS)

    def wait(
        self, job_id: str, *, progress: waiting.OnProgress | None = None, timeout_s: float | None = None
    ) -> JobView:
        """The job in its final state; it may be `failed`: look at it.

        Args:
            job_id: the job.
            progress: called with the job at the start and after every change, at most about once a second.
            timeout_s: how long to wait; None waits until the end.

        Raises:
            TimeoutError: the time is up; the job goes on.
        """
        deadline = waiting.Deadline(timeout_s)
        return waiting.wait(self._connection, job_id, progress=progress, deadline=deadline)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """The job's events after number `after` as they happen, until the stream ends."""
        return (event for event in waiting.events(self._connection, job_id, after=after) if event is not None)

    def cancel(self, job_id: str) -> JobView:
        """Cancel what of the job is not measured yet. Cancelling twice changes nothing."""
        answer = self._connection.request("POST", f"/jobs/{path_part(job_id)}/cancel", repeatable=True)
        return self._connection.value(JobView, answer)

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> JobView:
        """A new job of the items that failed in a finished one. It carries an Idempotency-Key as `submit` does."""
        answer = self._connection.request(
            "POST",
            f"/jobs/{path_part(job_id)}/retry",
            headers={"Idempotency-Key": idempotency_key or str(uuid4())},
            repeatable=True,
        )
        return self._connection.value(JobView, answer)

    def why(self, job_id: str) -> WhyView:
        """What stands in the way of the job's pending items."""
        return self._connection.read(WhyView, f"/jobs/{path_part(job_id)}/why")

    def items(self, job_id: str, *, state: ItemState | None = None) -> Iterator[ItemView]:
        """The job's items in order, with their results as far as there are any."""
        return self._pages(ItemView, f"/jobs/{path_part(job_id)}/items", {"state": state})

    def results(self, job_id: str, *, state: ItemState | None = None) -> Results:
        """All items of the job, or those in one state, as records."""
        return Results(self.items(job_id, state=state))

    def compare(
        self,
        a: WorkloadRequest,
        b: WorkloadRequest,
        *,
        platform: str,
        b_platform: str | None = None,
        tolerance_percent: float | None = None,
        timeout_s: float | None = None,
        **fields: Any,
    ) -> ItemView:
        """Which of two workloads is slower, measured side by side; waits for the answer.

        Raises Conflict where the job ended before anything was planned.

        It stands in `comparison` of the item; where that is None, `failure` and `reason` say why. With
        `b_platform` b runs there: same board and engine, another precision or other options. `tolerance_percent`:
        less than this is no difference. `fields` are others of a job request, `max_age_s=0` to measure anew.
        """
        asked = comparison_fields(a, b, platform, b_platform=b_platform, tolerance_percent=tolerance_percent)
        job = self.wait(self.submit(**asked, **fields).id, timeout_s=timeout_s)
        return first_item(job, self.items(job.id))

    # what is stored, and what it answers

    def stored_results(
        self,
        *,
        workload_id: str | None = None,
        platform: str | None = None,
        origin: str | None = None,
        protocol: str | None = None,
        timing: Timing | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[ResultView]:
        """Stored results by workload, platform, origin, name of the protocol, timing, and time of measurement."""
        params = {
            "workload_id": workload_id,
            "platform": platform,
            "origin": origin,
            "protocol": protocol,
            "timing": timing,
            "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
        }
        return self._pages(ResultView, "/results", params)

    def measurement(self, measurement_id: int) -> MeasurementView:
        """A measurement with its evidence and, while they are kept, its samples."""
        return self._connection.read(MeasurementView, f"/measurements/{measurement_id}")

    def latency(
        self, items: Iterable[Item], platforms: Iterable[str], *, pin: Pin | None = None, **fields: Any
    ) -> Latencies:
        """The latency of every item on every platform, items outer: measured, else predicted, else why neither.

        Any number of items: they are asked in as few questions as it takes, all of the same predictors. An item that is
        wrong costs its own answers alone.

        A prediction is a time without neighbours at the reference clock: its `median_ms` and `normalised_ms` are the
        same.

        Args:
            items: requests, architectures or kernel lists, or the same as JSON has them.
            platforms: ids, keys or aliases.
            pin: that of an earlier answer: the same predictors answer, and later measurements do not count.
            fields: `max_age_s`, `min_grade`, `timing`, `tolerance` and `on_miss` of a latency question.
        """
        return latencies.ask(self._connection, items, platforms, {**fields, "pin": pin})


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[IO[bytes]]:
    """The bytes of an upload, which may be sent more than once: a pipe cannot be, and a device may never end."""
    if isinstance(source, bytes):
        yield BytesIO(source)
        return
    path = Path(source)
    try:
        if path.exists() and not path.is_file():
            raise InvalidRequest(f"{path} is no regular file", field="path")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}", field="path") from error


def _pairs(values: Mapping[str, int] | None) -> list[str]:
    return [f"{name}:{value}" for name, value in (values or {}).items()]


def _job_request(request: JobRequest | None, fields: Mapping[str, Any]) -> JobRequest:
    if request is not None and not fields:
        return request
    return checked(JobRequest, {**(request.model_dump() if request else {}), **fields})
