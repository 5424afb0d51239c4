"""Board models that were found to be one, and those that were not after all; operators only."""

from benchfarm.connection import Connection, path_part
from benchfarm_core.boards import MergeRequest, ModelMerge, ModelSplit, SplitRequest


class BoardModels:
    """What the farm calls the models of its boards."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def merge(self, board_model: str, request: MergeRequest) -> ModelMerge:
        """The boards of one model are boards of another from now on."""
        answer = self._connection.request("POST", f"/board-models/{path_part(board_model)}/merge", json=request)
        return self._connection.value(ModelMerge, answer)

    def split(self, board_model: str, request: SplitRequest) -> ModelSplit:
        """Take a merge back: what agents report as this model is it again."""
        answer = self._connection.request("POST", f"/board-models/{path_part(board_model)}/split", json=request)
        return self._connection.value(ModelSplit, answer)
