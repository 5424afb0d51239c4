"""Optuna led by latencies of a farm: `pip install 'benchfarm[optuna]'`.

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    optimise(study, Search(farm, [LatencyConstraint(platform, 8.0)]), architecture, accuracy, trials=500)

A study of one direction maximises the accuracy under the constraints. One of more has the accuracy first, to maximise,
then the latency of each constraint, to minimise; the constraints hold there too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchfarm.latencies import Item
from benchfarm.searches import Judged, Search
from benchfarm_core.errors import InvalidRequest

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

TOGETHER: Final = 50
"""Trials of one question: a sampler learns of their results at once, not one after the other."""


def optimise(
    study: "Study",
    search: Search,
    architecture: "Callable[[Trial], Item]",
    accuracy: Callable[[Sequence[Item]], Sequence[float]],
    *,
    trials: int,
    together: int = TOGETHER,
) -> None:
    """Run so many more trials, asked and told in batches.

    A trial that the farm cannot answer fails, with the answer's error as its user attribute `error`. The normalised
    medians, in milliseconds, are the user attribute `latencies_ms`. Where something raises, or is interrupted, the
    trials that were asked and not told yet fail too: the study goes on with the next call.

    Args:
        study: with one direction, or one more than the search has constraints; the first is `maximize`.
        search: what judges by latency.
        architecture: of the suggestions that it takes from a trial.
        accuracy: of some architectures, one number for each, the greater the better.
        trials: how many.
        together: how many of them make one question.

    Raises:
        InvalidRequest: directions that fit no such study; and as `Search.judge`.
        ModuleNotFoundError: Optuna is not installed.
    """
    _check(study, search)
    for start in range(0, trials, together):
        with _all_told(study) as asked:
            for _ in range(min(together, trials - start)):
                asked.append(study.ask())
            items = [architecture(trial) for trial in asked]
            judged = search.judge(items)
            for trial, one, value in zip(asked, judged, accuracy(items), strict=True):
                _tell(study, trial, one, float(value))


@contextmanager
def _all_told(study: "Study") -> "Iterator[list[Trial]]":
    """Trials to be told. What runs for ever, samplers would wait for, or take for a bad one."""
    from optuna.trial import TrialState

    asked: list[Trial] = []
    try:
        yield asked
    except BaseException:  # boundary: whatever ends the caller's search, no trial may run for ever
        for trial in asked:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def _check(study: "Study", search: Search) -> None:
    from optuna.study import StudyDirection

    found = [direction == StudyDirection.MAXIMIZE for direction in study.directions]
    if found not in ([True], [True] + [False] * len(search.constraints)):
        detail = "a study has the direction maximize, for the accuracy; or that, and minimize for each constraint"
        raise InvalidRequest(detail, field="study")


def _tell(study: "Study", trial: "Trial", judged: Judged, accuracy: float) -> None:
    from optuna.trial import TrialState

    latencies_ms = [latency for latency in judged.latencies_ms if latency is not None]
    trial.set_user_attr("latencies_ms", list(judged.latencies_ms))
    if len(latencies_ms) < len(judged.answers):
        trial.set_user_attr("error", next(one.detail for one in judged.answers if one.error is not None))
        study.tell(trial, state=TrialState.FAIL)
        return
    for number, violation in enumerate(judged.violations):
        trial.set_constraint(f"latency_{number}", violation)
    study.tell(trial, [accuracy] if len(study.directions) == 1 else [accuracy, *latencies_ms])
