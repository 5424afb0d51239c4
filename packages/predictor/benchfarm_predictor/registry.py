"""All kinds of models and features, by name: what a predictor file may consist of."""

from dataclasses import dataclass, field
from typing import Final, get_args

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.bounded import Bounded
from benchfarm_predictor.combined import Mean, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.composition import KernelSum, TabledSum
from benchfarm_predictor.features import FEATURES_VERSION, KernelFeatures, View
from benchfarm_predictor.models import Arrays, Features, FeatureSpec, Meta, Model, damaged
from benchfarm_predictor.networks import Network
from benchfarm_predictor.ridge import Ridge
from benchfarm_predictor.shared_parts import Extents, Part
from benchfarm_predictor.smooth import Smooth
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.trees import Trees

_LEAVES: Final[tuple[type[Model], ...]] = (Ridge, Trees, Network, Smooth, TabledSum)
_MADE_OF_OTHERS: Final[tuple[type[Model], ...]] = (
    Scaled,
    Residual,
    Bounded,
    Mean,
    Stacked,
    Regional,
    KernelSum,
    Part,
)
KINDS: Final[dict[str, type[Model]]] = {kind.kind: kind for kind in (*_LEAVES, *_MADE_OF_OTHERS)}
MAX_NESTING: Final = 12
"""Models within models: regions of corrected sums of kernels, these stacks of corrections of stacked donors, which are
such stacks themselves, are nine."""
MAX_MODELS: Final = 20_000
"""Of one predictor, a shared one counted wherever it stands: of a few that are made of each other billions are asked.
"""
MAX_COLUMNS: Final = 32
"""Of a kernel type; a view has features for every two of them."""
MAX_TABLES: Final = 8
"""Sets of features of one kernel type in one file: a batch keeps those that were made of it."""
_VIEWS: Final[dict[str, View]] = {name: name for name in get_args(View)}


@dataclass(frozen=True)
class Registry:
    """Decodes the models and features of one file; ``nesting`` says how deep inside other models.

    ``tables``: for each kernel type the columns and views that were met so far. ``parts``: the shared models so far.
    """

    nesting: int = 0
    tables: dict[str, set[tuple[tuple[str, ...], str]]] = field(default_factory=dict)
    parts: list[Model] = field(default_factory=list)
    extents: Extents = field(default_factory=Extents)

    def model(self, arrays: Arrays, meta: Meta) -> Model:
        """A model of any kind.

        Raises:
            InvalidRequest: ``predictor_file_damaged``; ``predictor_file_foreign`` as ``features``.
        """
        kind = meta.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise damaged(f"no kind of model is called {kind!r:.40}")
        if self.nesting >= MAX_NESTING:
            raise damaged(f"models are nested more than {MAX_NESTING} deep")
        deeper = Registry(self.nesting + 1, self.tables, self.parts, self.extents)
        found = KINDS[kind].from_arrays(arrays, meta, deeper)
        return found.model if isinstance(found, Part) else found

    def shared(self, number: int) -> Model:
        """A shared model of those that were read so far. Raises InvalidRequest, ``predictor_file_damaged``."""
        if number >= len(self.parts):
            raise damaged(f"of its {len(self.parts)} shared models none is number {number}")
        return self.parts[number]

    def whole(self, arrays: Arrays, meta: Meta) -> Model:
        """A model as ``model``, of no more models and no deeper ones than predictors have, the shared ones counted."""
        found = self.model(arrays, meta)
        depth, count = self.extents.of(found)
        if depth > MAX_NESTING:
            raise damaged(f"models are nested more than {MAX_NESTING} deep")
        if count > MAX_MODELS:
            raise damaged(f"it consists of more than {MAX_MODELS} models")
        return found

    def features(self, spec: FeatureSpec) -> Features:
        """The features that were described, which must have the same names in this code.

        Raises:
            InvalidRequest: ``predictor_file_foreign`` for features of another version or with other names,
                ``predictor_file_damaged`` for columns that the kernel type cannot have, or for too many of them.
        """
        if spec.version != FEATURES_VERSION:
            raise foreign(f"its features are of version {spec.version}, this code's of version {FEATURES_VERSION}")
        if spec.of == "sums":
            if spec.view not in ("", "shares"):
                raise foreign(f"its features are a view {spec.view[:40]!r}")
            sums = SumFeatures("shares" if spec.view else "plain")
            return _with_names(sums, sums.names, spec)
        if spec.view not in _VIEWS:
            raise foreign(f"its features are a view {spec.view[:40]!r}")
        self._count_table(spec)
        whole = KernelFeatures(spec.type, spec.columns, _VIEWS[spec.view])
        try:
            known = whole.names
        except InvalidRequest as error:
            raise damaged(error.detail) from error
        if spec.names == known:
            return whole
        if len(set(spec.names)) == len(spec.names) and set(spec.names) <= set(known):
            return whole.select(spec.names)
        return _with_names(whole, known, spec)

    def _count_table(self, spec: FeatureSpec) -> None:
        tables = self.tables.setdefault(spec.type, set())
        tables.add((spec.columns, spec.view))
        if len(spec.columns) > MAX_COLUMNS or len(tables) > MAX_TABLES:
            raise damaged(f"its features take more than {MAX_COLUMNS} columns or {MAX_TABLES} tables of a kernel type")


def foreign(detail: str) -> InvalidRequest:
    """The error of a file that is whole but not this code's to read."""
    return InvalidRequest(f"the predictor file is foreign: {detail[:200]}", code="predictor_file_foreign")


def _with_names(features: Features, names: tuple[str, ...], spec: FeatureSpec) -> Features:
    if spec.names != names:
        other = next((name for name in spec.names if name not in names), "their order")
        raise foreign(f"its features have other names: {other[:60]}")
    return features
