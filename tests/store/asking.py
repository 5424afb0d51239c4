"""The latency question answered by measurements alone, as where no predictor is."""

from benchfarm_core.latency import AnswerRow, LatencyAnswer, unanswered
from benchfarm_store.latency import Asked


def measured_answers(asked: Asked) -> list[LatencyAnswer]:
    """What is not measured is `no_predictor`."""

    def rest(item_no: int, _number: int, place: int) -> AnswerRow:
        return vars(
            unanswered(item_no, asked.platforms[place].key, asked.timing, "no_predictor", "nobody predicts here")
        )

    return [LatencyAnswer(**row) for row in asked.rows(rest)]
