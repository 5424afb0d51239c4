"""What a platform's predictors learn from, and what judges them: results of this farm's own, told as rows.

Only what a predictor may promise: `normalised_ms` by the present summary rule, graded A to C, from boards as they are
now, by the farm's protocols with their own parameters. Uploads are private and teach nobody; so does nothing that is of
single use (`boards.is_single_use`), whose platforms have no rows at all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeGuard

from sqlalchemy import Row, text

from benchfarm_core.boards import is_single_use
from benchfarm_core.errors import NotFound
from benchfarm_core.measurements import Timing
from benchfarm_core.operator_pairs import PAIR_MODEL
from benchfarm_core.platforms import Platform
from benchfarm_core.predictors import WHOLE_MODEL, KernelRow, ModelRow, TrainingRows
from benchfarm_core.protocols import PROTOCOLS, purpose_of
from benchfarm_core.quality import RULE_VERSION
from benchfarm_core.summaries import Grade, is_reusable
from benchfarm_core.values import digest
from benchfarm_core.workloads import (
    WORKLOAD,
    AnyWorkload,
    ArchitectureWorkload,
    GeneratedModelWorkload,
    KernelWorkload,
)
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import workload_digest, workload_text
from benchfarm_store.fusions import engine_rules
from benchfarm_store.kernel_lists import GeneratedWorkload, is_current, kernel_list
from benchfarm_workloads.fusing import FusionRules

_HASH_DIGITS: Final = 32


class FoundRows(NamedTuple):
    """Results of a platform as they were read, and what its engine was seen to fuse."""

    key: str
    rules: FusionRules
    results: list[Row[Any]]


def training_rows(tx: Transaction, platform_id: int, subject: str | None = None) -> TrainingRows:
    """What the predictors of a platform (its row) may learn from: of each workload and timing the steadiest result, the
    newest of these. What was measured before the board became another one (`refreshes.judge_from`) is among
    `former_rows`.

    A workload that is a hold-out anywhere, measured or not yet, is left out everywhere: what judges one platform's
    predictor must not have taught its donors. One that was cancelled before it was measured judges nobody.

    Args:
        subject: a kernel type, for its kernels alone; None or `WHOLE_MODEL` for everything.

    Raises:
        NotFound: there is no such platform.
    """
    return told(find_rows(tx, platform_id, subject))


def find_rows(tx: Transaction, platform_id: int, subject: str | None = None) -> FoundRows:
    """As `training_rows`, but only read: what takes time is `told` outside the transaction."""
    return _found(tx, platform_id, tx.execute(_TRAINING, _wanted(platform_id) | _of(subject)))


def former_rows(tx: Transaction, platform_id: int, subject: str | None = None) -> TrainingRows:
    """The same of former generations of a platform's boards, and of before a board became another one: what was there
    before may lend to what is there now.

    Raises NotFound.
    """
    return told(find_former(tx, platform_id, subject))


def find_former(tx: Transaction, platform_id: int, subject: str | None = None) -> FoundRows:
    """As `former_rows`, but only read."""
    return _found(tx, platform_id, tx.execute(_FORMER, _wanted(platform_id) | _of(subject)))


def _of(subject: str | None) -> dict[str, Any]:
    return {
        "type": None if subject == WHOLE_MODEL else subject,
        "subject": subject or WHOLE_MODEL,
        "model": WHOLE_MODEL,
    }


def holdout_rows(
    tx: Transaction,
    platform_id: int,
    *,
    workload_ids: Collection[str] | None = None,
    occasion: int = 1,
    since: datetime | None = None,
) -> TrainingRows:
    """The hold-outs of a platform (its row) that were measured: of each workload and timing the first result, which no
    later one replaces, or with `occasion` the second, ... of those that have one. What was measured before the board
    became another one (`refreshes.judge_from`) counts no more.

    Args:
        workload_ids: of these alone; None: of all.
        since: of results that came later than this alone.

    Raises:
        NotFound: there is no such platform, or an id is none.
    """
    return told(find_holdouts(tx, platform_id, workload_ids=workload_ids, occasion=occasion, since=since))


def find_holdouts(
    tx: Transaction,
    platform_id: int,
    *,
    workload_ids: Collection[str] | None = None,
    occasion: int = 1,
    since: datetime | None = None,
) -> FoundRows:
    """As `holdout_rows`, but only read."""
    digests = None if workload_ids is None else [workload_digest(one) for one in workload_ids]
    parameters = {"digests": digests, "occasion": occasion, "since": since, "model": WHOLE_MODEL}
    return _found(tx, platform_id, tx.execute(_HOLDOUTS, _wanted(platform_id) | parameters))


def _wanted(platform_id: int) -> dict[str, Any]:
    return {"platform": platform_id, **teaching()}


def teaching() -> dict[str, Any]:
    """The parameters of `TEACHING`."""
    return {
        "protocols": [protocol.id for protocol in PROTOCOLS.values() if purpose_of(protocol) == "latency"],
        "rule": RULE_VERSION,
        "grades": [grade for grade in Grade if is_reusable(grade)],
    }


# models have one timing, kernels two
_RESULTS: Final = f"""
    FROM results r
    JOIN measurements m ON m.id = r.measurement_id AND m.state = 'done' AND m.origin_id = 1
    JOIN workloads w ON w.id = m.workload_id
        AND (w.kind = 'kernel' OR (w.kind IN ('model', 'architecture') AND m.timing = '{Timing.ALONE}'))
    JOIN protocols t ON t.id = m.protocol_id AND t.public_id = ANY(:protocols)
    JOIN summaries s ON s.measurement_id = m.id AND s.active AND s.rule_version = :rule AND s.grade = ANY(:grades)
        AND s.normalised_ms IS NOT NULL
    JOIN generations g ON g.id = r.generation_id
    JOIN boards b ON b.id = g.board_id
"""
_PRESENT: Final = f"{_RESULTS} AND b.generation_id = g.id"
_FREE: Final = """
    NOT EXISTS (SELECT FROM measurements h
        WHERE h.workload_id = m.workload_id AND h.purpose = 'holdout' AND h.state <> 'cancelled')
"""
TEACHING: Final = f"{_PRESENT} WHERE {_FREE}"
"""All results that may teach, of results `r`, measurements `m` and workloads `w`; see `training_rows`. Which platforms
have such results at all is not asked here."""
_COLUMNS: Final = """
    w.digest::text AS digest, w.spec::text AS workload, m.timing, m.purpose, s.normalised_ms, s.grade, r.measured_at
"""
# by platform through results, which have an index on it; more launches say more than a newer visit. A better grade does
# not, as it does where the farm answers: no age bounds these, and a board may have changed since
_OWN: Final = f"""
    WHERE r.platform_id = :platform AND (CAST(:type AS text) IS NULL OR (w.kind = 'kernel' AND w.family = :type))
        AND {_FREE}
"""
_STEADIEST: Final = """
    ORDER BY w.digest, m.timing, (s.launches >= 3) DESC, r.measured_at DESC, m.id DESC
"""
_EACH_ONCE: Final = f"""
    SELECT DISTINCT ON (w.digest, m.timing) {_COLUMNS},
        min(r.measured_at) OVER (PARTITION BY w.digest, m.timing) AS first_at
"""
_LOOKS: Final = """
    LEFT JOIN predictor_looks k ON k.platform_id = r.platform_id
        AND k.subject = CASE WHEN w.kind = 'kernel' THEN w.family ELSE :model END
"""
# since when the board is what it is, by the row's subject and by that which learns
_SINCE: Final = """
    greatest(k.judges_from, (SELECT judges_from FROM predictor_looks
        WHERE platform_id = :platform AND subject = :subject), '-infinity')
"""
_TRAINING = text(f"{_EACH_ONCE} {_PRESENT} {_LOOKS} {_OWN} AND r.measured_at > {_SINCE} {_STEADIEST}")
_FORMER = text(f"""
    {_EACH_ONCE} {_RESULTS} {_LOOKS} {_OWN}
        AND (b.generation_id IS DISTINCT FROM g.id OR r.measured_at <= {_SINCE}) {_STEADIEST}
""")
_HOLDOUTS = text(f"""
    SELECT * FROM (
        SELECT {_COLUMNS}, r.measured_at AS first_at,
            row_number() OVER (PARTITION BY w.id, m.timing ORDER BY r.measured_at, m.id) AS occasion
        {_PRESENT} {_LOOKS}
        WHERE r.platform_id = :platform AND m.purpose = 'holdout'
            AND r.measured_at > greatest(k.judges_from, CAST(:since AS timestamptz), '-infinity')
            AND (CAST(:digests AS uuid[]) IS NULL OR w.digest = ANY(CAST(:digests AS uuid[])))) found
    WHERE occasion = :occasion ORDER BY digest, timing
""")


def _found(tx: Transaction, platform_id: int, results: Iterable[Row[Any]]) -> FoundRows:
    row = tx.execute(_PLATFORM, {"id": platform_id}).one_or_none()
    if row is None:
        raise NotFound("there is no such platform")
    rules = engine_rules(tx, Platform.model_validate(row.spec))
    return FoundRows(row.key, rules, [] if is_single_use(row.key) else [*results])


def told(found: FoundRows) -> TrainingRows:
    """The rows with the kernels of whole models; a model takes up to a millisecond."""
    rules = found.rules
    pairs = [(one, WORKLOAD.validate_json(one.workload)) for one in found.results]
    known = [(one, workload) for one, workload in pairs if _teaches(workload)]
    kernels = [_kernel(one, workload) for one, workload in known if isinstance(workload, KernelWorkload)]
    models = [_model(one, workload, rules) for one, workload in known if not isinstance(workload, KernelWorkload)]
    return TrainingRows(
        platform=found.key,
        kernels=tuple(kernels),
        models=tuple(models),
        rule_version=RULE_VERSION,
        data_hash=_data_hash(found.key, kernels, models, rules),
    )


def find_networks(tx: Transaction, rows: TrainingRows) -> dict[str, str]:
    """The whole models among some rows as they are stored, by their workloads' ids."""
    digests = [workload_digest(row.workload_id) for row in rows.models]
    found = tx.execute(_NETWORKS, {"digests": digests}) if digests else ()
    return {workload_text(row.digest): row.workload for row in found}


_NETWORKS = text("""
    SELECT w.digest::text AS digest, w.spec::text AS workload FROM workloads w
    WHERE w.digest = ANY(CAST(:digests AS uuid[]))
""")


def fused_by(rows: TrainingRows, networks: Mapping[str, str], rules: FusionRules) -> TrainingRows:
    """The same rows with the kernels of whole models by other rules; a model takes up to a millisecond."""
    models = []
    for row in rows.models:
        workload = WORKLOAD.validate_json(networks[row.workload_id])
        assert _teaches(workload)  # it is a row
        found = kernel_list(workload, rules)
        models.append(row.model_copy(update={"kernels": found.kernels, "unknown": found.unknown}))
    return rows.model_copy(update={"models": tuple(models)})


_PLATFORM = text("SELECT key, spec FROM platforms WHERE id = :id")


def _teaches(workload: AnyWorkload) -> TypeGuard[GeneratedWorkload]:
    """Whether this code still generates it, and as a network or kernel: operator pairs only tell what is fused."""
    if not isinstance(workload, KernelWorkload | GeneratedModelWorkload | ArchitectureWorkload):
        return False
    is_pair = isinstance(workload, GeneratedModelWorkload) and workload.name == PAIR_MODEL
    return not is_pair and is_current(workload)


def _kernel(row: Row[Any], workload: KernelWorkload) -> KernelRow:
    return KernelRow(
        workload_id=workload_text(row.digest),
        kernel_type=workload.type,
        config=workload.config,
        timing=row.timing,
        normalised_ms=row.normalised_ms,
        grade=row.grade,
        measured_at=row.measured_at,
        purpose=row.purpose,
        first_at=None if row.first_at == row.measured_at else row.first_at,
    )


def _model(row: Row[Any], workload: GeneratedWorkload, rules: FusionRules) -> ModelRow:
    found = kernel_list(workload, rules)
    return ModelRow(
        workload_id=workload_text(row.digest),
        space=workload.space if isinstance(workload, ArchitectureWorkload) else None,
        kernels=found.kernels,
        unknown=found.unknown,
        normalised_ms=row.normalised_ms,
        grade=row.grade,
        measured_at=row.measured_at,
        purpose=row.purpose,
        first_at=None if row.first_at == row.measured_at else row.first_at,
    )


def _data_hash(key: str, kernels: Sequence[KernelRow], models: Sequence[ModelRow], rules: FusionRules) -> str:
    """Kernel lists follow from workloads and what is fused: hashing these says the same in less time."""
    fused = sorted((*pair, is_fused) for pair, is_fused in rules.measured.items())
    told = {
        "platform": key,
        "rule_version": RULE_VERSION,
        "kernels": [(one.workload_id, one.timing, one.normalised_ms) for one in kernels],
        "models": [(one.workload_id, one.normalised_ms) for one in models],
        "fused": fused if models else [],
    }
    return digest(told, length=_HASH_DIGITS)
