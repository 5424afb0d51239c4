"""The latency question."""

from fastapi import Request
from fastapi.responses import Response

from benchfarm_api import latency_answers, predicting
from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.predicting import Remembered
from benchfarm_api.problems import columns_too, conflict, not_found
from benchfarm_api.routes import new_router
from benchfarm_core.latency import LatencyRequest, LatencyResponse

router = new_router("latency")


@router.post("/latency", response_model=LatencyResponse, responses=columns_too() | not_found() | conflict())
def ask_latency(question: LatencyRequest, request: Request, caller: CallerDep, parts: PartsDep) -> Response:
    """How long each item takes on each platform: measured, else predicted, else why there is no answer.

    Measures nothing now; `on_miss: measure` queues what is not predicted exactly enough. At most 20,000 items and
    200,000 answers: items x distinct platforms. `Accept: application/vnd.msgpack` gives columns instead of rows.
    """
    budget_s = parts.settings.benchfarm_asked_budget_s
    remembered = Remembered(parts.predictors, parts.kernels, parts.blocks)
    stall_s = parts.settings.benchfarm_answer_stall_s
    with parts.turns.turn(len(question.items) * len(question.platforms)):
        answered = predicting.answer(parts.database, remembered, question, caller, budget_s)
        return latency_answers.response(answered, request.headers.get("Accept", ""), stall_s)
