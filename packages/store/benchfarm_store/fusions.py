"""Fusion rules as they were measured, and what models come to by them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.boards import MARK_PREFIXES
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.fusion import (
    FusionReport,
    FusionRow,
    FusionsView,
    FusionView,
    KernelPart,
    ModelKernel,
    ModelKernels,
    RulesSource,
    UnknownOperator,
    fused_verdict,
)
from benchfarm_core.platforms import Platform
from benchfarm_core.spaces import ArchitectureKernels
from benchfarm_core.values import canonical_json, digest
from benchfarm_core.workloads import ArchitectureWorkload
from benchfarm_store import models, platforms
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.tables import FUSION_KEY
from benchfarm_store.tokens import Caller
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import DEFAULT_FUSIONS, FusionRules, fuse
from benchfarm_workloads.models import model_recipe, model_recipes
from benchfarm_workloads.operators import GraphIndex, Operator, graph_operators, layer_operators
from benchfarm_workloads.recognition import Part, recognised
from benchfarm_workloads.tflite_operators import REWORDED, in_onnx_words
from benchfarm_workloads.verdicts import Graph

UPLOAD_AGAIN: Final = "; it was uploaded before its stored numbers were read: upload it again"
_READ_BY_NUMBERS: Final = frozenset({"Add", "Clip", "Div", "Mul", "Pow", "ReduceMean"}) | REWORDED
"""Operators that numbers in the file, of a .tflite file its options, make something that the catalogue knows."""


def record_fusions(tx: Transaction, platform: Platform, rows: Sequence[FusionRow]) -> None:
    """Keep what was measured of an engine; the verdict on latencies is made here. What a row leaves out stays."""
    columns = [row.model_dump() | {"by_latency": row.by_latency} for row in rows]
    parameters = {**_engine(platform), "board_model": platform.board_model, "rows": rows_json(columns), "now": tx.now}
    tx.execute(_RECORD, parameters)


_TIMES: Final = ("t1_ms", "t2_ms", "t12_ms", "spread_ms", "by_latency")
"""Of one occasion, so that they are replaced together: later times may be undecided."""
_VALUES: Final = (*_TIMES, "by_profile")
_RECORD = text(f"""
    INSERT INTO fusions AS f ({", ".join(FUSION_KEY)}, measured_at, {", ".join(_VALUES)})
    SELECT :engine, :version, :options, :precision, :board_model, first, second, :now, {", ".join(_VALUES)}
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(first text, second text, t1_ms double precision,
        t2_ms double precision, t12_ms double precision, spread_ms double precision, by_latency boolean,
        by_profile boolean)
    ORDER BY first, second
    ON CONFLICT ({", ".join(FUSION_KEY)}) DO UPDATE SET measured_at = excluded.measured_at,
        by_profile = coalesce(excluded.by_profile, f.by_profile),
        {", ".join(f"{n} = CASE WHEN excluded.t12_ms IS NULL THEN f.{n} ELSE excluded.{n} END" for n in _TIMES)}
""")


def fusion_rules(tx: Transaction, platform: Platform) -> list[FusionView]:
    """What was measured of a platform's engine at its precision, by pair: on boards of its model; a pair that was not
    measured there, on the model where it was measured last. Models with marks lend nothing to others."""
    return [_view(row) for row in _nearest(tx, [platform])[0]]


def _nearest(tx: Transaction, every: Sequence[Platform]) -> list[list[Row[Any]]]:
    """The rows of `fusion_rules` for each of some platforms, all by one statement."""
    engines = [{"at": at, "model": one.board_model, **_engine(one)} for at, one in enumerate(every)]
    marks = list(MARK_PREFIXES.values())
    found: list[list[Row[Any]]] = [[] for _ in every]
    for row in tx.execute(_NEAREST, {"engines": rows_json(engines), "marks": marks}) if engines else ():
        found[row.at].append(row)
    return found


_NEAREST = text("""
    SELECT DISTINCT ON (x.at, f.first, f.second) x.at, f.* FROM jsonb_to_recordset(CAST(:engines AS jsonb))
        AS x(at int, model text, engine text, version text, options text, precision text)
    JOIN fusions f ON (f.engine, f.version, f.options, f.precision) = (x.engine, x.version, x.options, x.precision)
        AND (f.board_model = x.model OR NOT f.board_model ^@ ANY(CAST(:marks AS text[])))
    ORDER BY x.at, f.first, f.second, f.board_model = x.model DESC, f.measured_at DESC
""")


def rules_digest(rules: FusionRules) -> str:
    """A hash of how an engine fuses: 32 hexadecimal digits."""
    return digest(_told(rules))


def _told(rules: FusionRules) -> list[tuple[str, str, bool]]:
    return sorted((first, second, fuses) for (first, second), fuses in rules.measured.items())


def keep_rules(tx: Transaction, rules: FusionRules) -> str:
    """Keep how an engine fuses, for what learns by it now is to answer by it; its hash. What is measured later changes
    `fusions`, and not this."""
    told = _told(rules)
    name = digest(told)
    tx.execute(_KEEP_RULES, {"digest": name, "rules": canonical_json(told)})
    return name


_KEEP_RULES = text("""
    INSERT INTO fusion_rules (digest, rules) VALUES (:digest, CAST(:rules AS jsonb)) ON CONFLICT DO NOTHING
""")


def kept_rules(tx: Transaction, digests: Collection[str]) -> dict[str, FusionRules]:
    """By their hashes; of what was learnt before they were kept there are none."""
    rows = tx.execute(_KEPT_RULES, {"digests": sorted(set(digests))}) if digests else ()
    return {row.digest: FusionRules({(one, other): fuses for one, other, fuses in row.rules}) for row in rows}


_KEPT_RULES = text("SELECT digest, rules FROM fusion_rules WHERE digest = ANY(CAST(:digests AS text[]))")


def _engine(platform: Platform) -> dict[str, str]:
    """Fusion is the engine's doing, whatever cores it runs on; what a build of it does may differ between boards."""
    engine = platform.engine
    return {
        "engine": engine.name,
        "version": engine.version,
        "options": engine.options_key,
        "precision": platform.precision,
    }


def _fused(row: Row[Any]) -> bool:
    verdicts = (row.by_latency, row.by_profile)
    return fused_verdict(*verdicts) if verdicts != (None, None) else (row.first, row.second) in DEFAULT_FUSIONS


def _view(row: Row[Any]) -> FusionView:
    verdicts, fused = (row.by_latency, row.by_profile), _fused(row)
    disagree = None not in verdicts and len(set(verdicts)) > 1
    return FusionView.model_validate(row._asdict() | {"fused": fused, "disagree": disagree})


def get_fusions(tx: Transaction, name: str) -> FusionsView:
    """The fusion rules of a platform by id, key or alias. Raises NotFound."""
    try:
        platform = Platform.model_validate(platforms.find(tx, name).spec)
    except InvalidRequest as error:
        raise NotFound(error.detail) from error
    measured = fusion_rules(tx, platform)
    return FusionsView(
        platform=platform.key,
        engine=platform.engine.key,
        precision=platform.precision,
        rules=_source(platform, measured),
        measured=measured,
        disagreements=[one for one in measured if one.disagree],
        default=sorted(DEFAULT_FUSIONS),
    )


def _source(platform: Platform, measured: Sequence[FusionView] | Sequence[Row[Any]]) -> RulesSource:
    if not measured:
        return "default"
    own = any(one.board_model == platform.board_model for one in measured)
    return "measured" if own else "other_board_model"


def report(tx: Transaction, name: str, found: FusionReport) -> FusionsView:
    """Keep measured rows of a platform's engine; sending them again changes nothing. Raises NotFound."""
    view = get_fusions(tx, name)
    record_fusions(tx, Platform.model_validate(platforms.find(tx, view.platform).spec), found.rows)
    return get_fusions(tx, view.platform)


def model_kernels(
    tx: Transaction, model_id: str, platform: str, by: Caller, config: Mapping[str, int | str] | None = None
) -> ModelKernels:
    """An uploaded model's kernels on a platform, or those of a generated one, whose id is its name.

    `config` has the columns of a generated model that differ from its defaults. Raises NotFound for models of others,
    InvalidRequest for a platform that is none and for columns that the model has not or does not take.
    """
    key, rules, source = _rules(tx, platform)
    read = _read(tx, model_id, by, config or {})
    fused = fuse(read.operators, rules, read.joined)
    chains = [recognised(chain, read.graph) for chain in fused.kernels]
    unknown = Counter(op for parts in chains for op in _unknown(parts))
    return ModelKernels(
        model_id=model_id,
        platform=key,
        rules=source,
        assumed=list(fused.assumed),
        kernels=_kernels(chains, is_old=read.is_old),
        unknown=[UnknownOperator(operator=op, count=count) for op, count in sorted(unknown.items())],
    )


def architecture_kernels(tx: Transaction, workload: ArchitectureWorkload, platform: str | None) -> ArchitectureKernels:
    """An architecture's cost and kernels on a platform, or by the rules that hold unless measured otherwise.

    Raises InvalidRequest for a platform that is none.
    """
    anywhere: tuple[str | None, FusionRules, RulesSource] = (None, FusionRules(), "default")
    key, rules, source = anywhere if platform is None else _rules(tx, platform)
    network = spaces.space(workload.space).network(workload)
    fused, chains = spaces.fused_network(network, rules)
    return ArchitectureKernels.of(
        workload,
        cost=network.cost(),
        platform=key,
        rules=source,
        assumed=list(fused.assumed),
        kernels=_kernels(chains, is_old=False),
    )


def _rules(tx: Transaction, name: str) -> tuple[str, FusionRules, RulesSource]:
    """The platform's key, what its engine fuses, and where that is from. Raises InvalidRequest."""
    row = platforms.find(tx, name)
    spec = Platform.model_validate(row.spec)
    [measured] = _nearest(tx, [spec])
    return row.key, _decided(measured), _source(spec, measured)


def engine_rules(tx: Transaction, platform: Platform) -> FusionRules:
    """What a platform's engine fuses, as far as it was measured: what kernel lists are made by."""
    return engines_rules(tx, [platform])[0]


def engines_rules(tx: Transaction, every: Sequence[Platform]) -> list[FusionRules]:
    """The same of several platforms' engines."""
    return [_decided(rows) for rows in _nearest(tx, every)]


def _decided(measured: Sequence[Row[Any]]) -> FusionRules:
    """A pair of which neither way could tell counts as not measured."""
    decided = (one for one in measured if one.by_latency is not None or one.by_profile is not None)
    return FusionRules({(one.first, one.second): _fused(one) for one in decided})


def _kernels(chains: Sequence[Sequence[Part]], *, is_old: bool) -> list[ModelKernel]:
    return [
        ModelKernel(kernel_no=no, parts=[_part(part, is_old=is_old) for part in parts])
        for no, parts in enumerate(chains)
    ]


class _Read(NamedTuple):
    """A model's operators; of an upload also its graph, what its file has as one, and whether it was read before its
    stored numbers were kept."""

    operators: Sequence[Operator]
    graph: GraphIndex | None = None
    joined: frozenset[str] = frozenset()
    is_old: bool = False


def _read(tx: Transaction, model_id: str, by: Caller, config: Mapping[str, int | str]) -> _Read:
    if model_id in {recipe.name for recipe in model_recipes()}:
        return _Read(tuple(layer_operators(model_recipe(model_id).network(config).layers)))
    model = models.get_model(tx, model_id, by)
    graph = Graph.model_validate(model.graph)
    if config:
        raise InvalidRequest("an uploaded model has no columns", field="config")
    joined, is_old = frozenset[str](), "numbers" not in graph.model_fields_set
    if model.format == "tflite" and not is_old:
        graph, joined = in_onnx_words(graph)
    return _Read(graph_operators(graph), GraphIndex(graph), joined, is_old)


def _unknown(parts: Sequence[Part]) -> list[str]:
    return [op for part in parts if part.type is None and not part.is_free for one in part.operators for op in one.ops]


def _part(part: Part, *, is_old: bool) -> KernelPart:
    operators = [op for one in part.operators for op in one.ops]
    is_unread = is_old and part.type is None and not _READ_BY_NUMBERS.isdisjoint(operators)
    return KernelPart(
        type=part.type,
        config=part.config,
        operators=operators,
        names=list(dict.fromkeys(name for one in part.operators for name in one.names)),
        reason=part.reason + (UPLOAD_AGAIN if is_unread else ""),
        is_free=part.is_free,
    )
