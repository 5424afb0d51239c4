"""The latency question."""

from benchfarm_api import predicting
from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import not_found
from benchfarm_api.routes import new_router
from benchfarm_core.latency import LatencyRequest, LatencyResponse

router = new_router("latency")


@router.post("/latency", responses=not_found())
def ask_latency(question: LatencyRequest, caller: CallerDep, parts: PartsDep) -> LatencyResponse:
    """How long each item takes on each platform: measured, else predicted, else why there is no answer.

    Measures nothing. At most 20,000 items and 200,000 answers: items x distinct platforms.
    """
    return predicting.answer(parts.database, parts.predictors, parts.kernels, question, caller)
