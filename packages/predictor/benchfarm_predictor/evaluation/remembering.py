"""A model that computes each batch's prediction once: many candidates correct the same donor."""

from typing import Any, ClassVar, Self

from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Array, Arrays, Batch, Decoder, Meta, Model, damaged


class Remembering:
    """Answers as its model does. Holds every batch that it was asked about: for as long as an evaluation, no longer."""

    kind: ClassVar[str] = "remembering"

    def __init__(self, model: Model) -> None:
        self.model = model
        self.known: dict[int, tuple[Batch, Floats]] = {}

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        if id(batch) not in self.known:
            self.known[id(batch)] = (batch, self.model.predict(batch))
        return self.known[id(batch)][1]

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Those of its model: what was remembered is no part of it."""
        return self.model.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """Raises InvalidRequest: no file holds one."""
        del arrays, meta, decoder
        raise damaged("a remembering model is never written")
