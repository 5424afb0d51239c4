"""pymoo led by latencies of a farm: `pip install 'benchfarm[pymoo]'`.

    problem = latency_problem(search, architecture, accuracy, lowest=[0] * 21, highest=[24] + [2] * 20)
    found = pymoo.optimize.minimize(problem, NSGA2(pop_size=100, sampling=IntegerRandomSampling(), ...), ("n_gen", 30))

Each generation is one question. Objectives, all to be minimised: the accuracy, negative, then the latency of each
constraint. Inequality constraints: the violations.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from benchfarm.latencies import Item
from benchfarm.searches import Judged, Search
from benchfarm_core.errors import InvalidRequest

if TYPE_CHECKING:
    from pymoo.core.problem import Problem

UNANSWERED_MS: Final = 1e9
"""In place of a latency that nobody knows: its constraint is violated, and nothing is worse."""


def latency_problem(
    search: Search,
    architecture: Callable[[Sequence[int]], Item],
    accuracy: Callable[[Sequence[Item]], Sequence[float]],
    *,
    lowest: Sequence[int],
    highest: Sequence[int],
) -> "Problem":
    """A problem of integer variables from `lowest` to `highest`, both included.

    Args:
        search: what judges by latency.
        architecture: of the variables, which may say the same by different numbers.
        accuracy: of some architectures, one number for each, the greater the better.
        lowest: of each variable.
        highest: of each variable.

    Raises:
        InvalidRequest: the ends are not of one length.
        ModuleNotFoundError: pymoo is not installed.
    """
    import numpy as np
    from pymoo.core.problem import Problem

    if len(lowest) != len(highest) or not lowest:
        raise InvalidRequest("give the lowest and the highest of each variable", field="lowest")

    class LatencyProblem(Problem):  # type: ignore[misc]  # pymoo has no types
        """Made here, because its base is there only where pymoo is."""

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            items = [architecture([round(float(value)) for value in row]) for row in x]
            judged = search.judge(items)
            rows = [_objectives(value, one) for value, one in zip(accuracy(items), judged, strict=True)]
            out["F"], out["G"] = np.array(rows), np.array([one.violations for one in judged])

    count = len(search.constraints)
    return LatencyProblem(
        n_var=len(lowest), n_obj=1 + count, n_ieq_constr=count, xl=list(lowest), xu=list(highest), vtype=int
    )


def _objectives(accuracy: float, judged: Judged) -> list[float]:
    return [-float(accuracy), *(UNANSWERED_MS if one is None else one for one in judged.latencies_ms)]
