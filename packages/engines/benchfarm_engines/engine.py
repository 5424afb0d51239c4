"""The interface of an engine: what the runner needs to know of an inference runtime, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine_options import Option, OptionValue

if TYPE_CHECKING:
    import numpy as np

Tensors = Mapping[str, "np.ndarray"]

DETAIL_LENGTH = 300
SUBJECT_LENGTH = 60


class EngineFailure(Exception):
    """A workload cannot be measured here, for a reason with a stable code."""

    def __init__(self, code: FailureCode, detail: str, *, subject: str = "") -> None:
        """subject: what it was about, in one word for tables: the operator that an engine lacks."""
        self.code = code
        self.detail = one_line(detail)
        self.subject = one_line(subject)[:SUBJECT_LENGTH]
        super().__init__(f"{code}: {self.detail}")


class EngineUnavailable(Exception):
    """The engine is not installed or does not work on this host; the text says why."""


class PrecisionNotObeyed(Exception):
    """The engine computes in another precision than it was told to."""


class ThreadsNotObeyed(Exception):
    """The engine computes with another number of threads than it was told to."""


@dataclass(frozen=True)
class OpenRequest:
    """How to open one model.

    artifact: the file. inputs: by name, all of them, with every dimension bound; the session keeps using
    these buffers. precision: one of the engine's. threads: computing threads, the caller's included.
    options: checked by ``engine_options.check_options``. beside_another: another session of this process is
    measured in turn with this one, which must leave its processors alone while it does not run. cache: a
    folder where the engine may leave what it made of a model, for other launches on the same host with the
    same privileges; it must compute the same with it and without. profiled: the session will be asked for
    ``profile``; a profiled session's runs are slower.
    """

    artifact: Path
    inputs: Tensors
    precision: str
    threads: int
    options: Mapping[str, OptionValue]
    beside_another: bool = False
    cache: Path | None = None
    profiled: bool = False


class NodeTime(NamedTuple):
    """One operator that an engine executed.

    kind: its operator type there; ns: its time in one inference; origins: the graph's nodes that it stands for, where
    the engine tells more than one.
    """

    name: str
    kind: str
    ns: int
    origins: tuple[str, ...] = ()


def unmarked() -> bool:
    """Nothing is noted between the inferences of a profile, and none is left out."""
    return False


def run_marked(run: Callable[[], None], runs: int, mark: Callable[[], bool]) -> int:
    """Runs and marks as ``ProfilingSession.profile`` promises it; returns how many runs that were."""
    mark()
    for number in range(1, runs + 1):
        run()
        if mark():
            return number
    return runs


class Session(Protocol):
    """A model that is ready to run on fixed inputs."""

    @property
    def threads(self) -> int:
        """Computing threads as the engine has set them up, asked of the engine or counted."""

    def run(self) -> None:
        """One inference. The output stays inside until the next one. Raises EngineFailure."""

    def outputs(self) -> list[np.ndarray]:
        """Copies of the outputs of the latest run, in graph order."""

    def computes_in(self) -> str:
        """The precision that the opened model computes in, asked of the engine; may take milliseconds.

        That of its products: the platform's where any of them is. Of a model without products it is what all the other
        operators compute in: ``int8`` where none of them computes with floating-point numbers.
        """

    def close(self) -> None:
        """Frees the model; the session is of no use afterwards."""


@runtime_checkable
class SteppedSession(Session, Protocol):
    """A session whose outputs may be stored in steps of 8 or 16 bits that no edges tell."""

    def output_steps(self) -> list[tuple[float, int]]:
        """Of each output the scale and the zero point, see ``edges.Edge``; scale 0 where it is not quantised."""


class ProfilingSession(Session, Protocol):
    """A session that was opened ``profiled``, in an engine whose ``profiles`` is true."""

    @property
    def tells_means(self) -> bool:
        """Whether `profile` answers with the mean inference instead of each single one: small times below zero too."""

    def profile(self, runs: int, mark: Callable[[], bool] = unmarked) -> list[list[NodeTime]]:
        """That many inferences, each as its operators in the order of execution. Raises EngineFailure.

        mark: called before the first inference and after each; where it answers true, that one was the last.
        """


class Engine(Protocol):
    """One inference runtime. Its module may import the runtime; nothing else of the farm does."""

    @property
    def name(self) -> str:
        """The engine's name in platform keys."""

    @property
    def formats(self) -> tuple[str, ...]:
        """File formats that ``open`` takes."""

    @property
    def options(self) -> tuple[Option, ...]:
        """The closed set of options, part of the platform's identity."""

    @property
    def profiles(self) -> bool:
        """Whether it tells the time of single operators."""

    def version(self) -> str:
        """The exact version, as platform keys carry it."""

    def precisions(self) -> tuple[str, ...]:
        """Precisions that this host can compute in."""

    def open(self, request: OpenRequest) -> Session:
        """Prepares a model for running. Raises EngineFailure with the code that fits."""


def one_line(text: str) -> str:
    """A text for people, in one line of bounded length."""
    return " ".join(text.split())[:DETAIL_LENGTH]


def failure_without_paths(
    code: FailureCode, error: BaseException, artifact: Path, lacking: Iterable[re.Pattern[str]] = ()
) -> EngineFailure:
    """An engine's own message as a failure, without the board's file names.

    lacking: how the engine says which operator (`op`) it has none of, which is what the failure is then about.
    """
    text = str(error) or type(error).__name__
    found = [sign.search(text) for sign in lacking] if code == FailureCode.UNSUPPORTED_OPERATOR else []
    subject = next((one["op"] for one in found if one is not None), "")
    return EngineFailure(code, text.replace(str(artifact), "the model"), subject=subject)
