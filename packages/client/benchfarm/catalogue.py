"""The part of `Client` about what the farm knows how to measure."""

from collections.abc import Iterator

from benchfarm.calls import Calls
from benchfarm_core.platforms import Precision
from benchfarm_core.protocols import Protocol
from benchfarm_core.support import SupportRow
from benchfarm_core.views import EngineView, GeneratedModelView, KernelTypeView


class CatalogueCalls(Calls):
    """Kernel types, generated models, protocols, engines, and what came of every attempt."""

    def kernels(self) -> list[KernelTypeView]:
        """The kernel types with their columns, ranges and units."""
        return list(self._pages(KernelTypeView, "/kernels"))

    def generated_models(self) -> list[GeneratedModelView]:
        """The models that the farm generates by recipe."""
        return list(self._pages(GeneratedModelView, "/generated-models"))

    def protocols(self) -> list[Protocol]:
        """The measurement protocols."""
        return list(self._pages(Protocol, "/protocols"))

    def engines(self) -> list[EngineView]:
        """The engines, with the boards that have them and the reasons of those that do not."""
        return list(self._pages(EngineView, "/engines"))

    def support(
        self,
        *,
        family: str | None = None,
        engine: str | None = None,
        precision: Precision | None = None,
        board_model: str | None = None,
    ) -> Iterator[SupportRow]:
        """What came of every attempt so far, by workload family, engine, precision and board model."""
        params = {"family": family, "engine": engine, "precision": precision, "board_model": board_model}
        return self._pages(SupportRow, "/support", params)
