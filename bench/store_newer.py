"""The newer tables under load: engines' options, the support matrix, fusion rules, times in situ and profiles,
adaptations and refreshes."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import text

from bench.store_fill import ACCOUNTS, BOARD_MODELS, PLATFORMS_PER_MODEL, platform_of
from bench.store_plans import CALLER, TIMES, in_transaction
from benchfarm_core.adapting import AdaptationRequest, AdaptationState, DonorChoice
from benchfarm_core.boards import EngineReport
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Purpose
from benchfarm_core.operator_pairs import OPERATOR_PAIRS
from benchfarm_core.platforms import Platform, Precision
from benchfarm_core.refreshing import Since
from benchfarm_core.views import ResultsWanted
from benchfarm_store import (
    accounts,
    adaptation_budgets,
    adaptation_items,
    adaptations,
    dispatching,
    fusions,
    jobs,
    planning,
    platforms,
    refreshes,
    results,
    support,
    training_rows,
)
from benchfarm_store.adaptation_items import Ask, Whose
from benchfarm_store.database import Database, Transaction
from benchfarm_store.refreshes import Due
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import kernel_type, kernel_types

OPTIONS_PER_MODEL: Final = 80
"""Platforms with an option of their own that somebody wanted of each board model."""
NEWER_TABLES: Final = frozenset({"adaptation_items", "board_platforms", "fusions", "support_outcomes"})
CODES: Final = ("ok", "unsupported_operator", "wrong_result")
MODEL: Final = 7
WORKLOADS: Final = 50
Call = Callable[[Transaction], object]


def fill_newer(database: Database, options_per_model: int = OPTIONS_PER_MODEL) -> int:
    """What years of wishes and outcomes leave; how many rows of the newer tables there are then."""
    with database.transaction() as tx:
        tx.execute(text("SET LOCAL statement_timeout = 0"))
        reports = [report.model_dump(mode="json") for report in _REPORTS]
        tx.execute(text("UPDATE boards SET engines = CAST(:engines AS jsonb)"), {"engines": json.dumps(reports)})
        made = [
            _with_option(model, value) for model in range(BOARD_MODELS) for value in range(1, options_per_model + 1)
        ]
        rows = [{"id": one.id, "key": one.key, "spec": one.model_dump_json()} for one in made]
        tx.execute(_PLATFORMS_SQL, {"rows": json.dumps(rows), "accounts": ACCOUNTS})
        tx.execute(_OFFERS_SQL)
        tx.execute(_SUPPORT_SQL, {"families": [kind.name for kind in kernel_types()], "codes": list(CODES)})
        tx.execute(_FUSIONS_SQL, {"pairs": json.dumps([{"a": a, "b": b} for a, b in OPERATOR_PAIRS])})
        tx.execute(_PREDICTORS_SQL)
        return int(tx.execute(_COUNT_SQL).scalar_one())


_OPTION: Final[dict[str, Any]] = {"kind": "number", "default": 0, "low": 0, "high": 100_000}
_REPORTS: Final = tuple(
    EngineReport.model_validate(
        {
            "name": name,
            "available": True,
            "version": "1.0.0",
            "precisions": [Precision.FP32],
            "options": {"cache": _OPTION},
            "by_difference": True,
        }
    )
    for name in ("onnxruntime", "openvino", "ncnn")
)


def _base(model: int, kind: int = 0) -> Platform:
    return platform_of(model * PLATFORMS_PER_MODEL + kind)


def _with_option(model: int, value: int) -> Platform:
    base = _base(model)
    return base.model_copy(update={"engine": base.engine.model_copy(update={"options": {"cache": value}})})


# the first account wants more than is there already
_PLATFORMS_SQL = text("""
    INSERT INTO platforms (public_id, key, spec, created_at, wanted_by_id)
    SELECT id, key, CAST(spec AS jsonb), now(), 2 + row_number() OVER () % (:accounts - 1)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id text, key text, spec text)
""")
_OFFERS_SQL = text("""
    INSERT INTO board_platforms (board_id, platform_id)
    SELECT b.id, p.id FROM boards b JOIN platforms p ON p.spec->>'board_model' = b.board_model
    ON CONFLICT DO NOTHING
""")
_ENGINES_SQL = """
    (SELECT DISTINCT spec->>'board_model' AS board_model, spec->'engine'->>'name' AS engine,
        spec->'engine'->>'version' AS version, spec->>'precision' AS precision,
        coalesce('~cache=' || (spec->'engine'->'options'->>'cache'), '') AS options FROM platforms) e
"""
_SUPPORT_SQL = text(f"""
    INSERT INTO support_outcomes (family, engine, version, options, precision, board_model, code, subject, count,
        seconds, measurement_id, first_at, last_at)
    SELECT f, e.engine, e.version, e.options, e.precision, e.board_model, c, '', 9, 4, m.id, now(), now()
    FROM unnest(CAST(:families AS text[])) f, unnest(CAST(:codes AS text[])) c, {_ENGINES_SQL},
        (SELECT min(id) AS id FROM measurements) m
""")
_FUSIONS_SQL = text(f"""
    INSERT INTO fusions (engine, version, options, precision, board_model, first, second, t1_ms, t2_ms, t12_ms,
        spread_ms, measured_at, by_latency, by_profile)
    SELECT e.engine, e.version, e.options, e.precision, e.board_model, x.a, x.b, 1, 1, 1.2, 0.01, now(), true, true
    FROM jsonb_to_recordset(CAST(:pairs AS jsonb)) AS x(a text, b text), {_ENGINES_SQL}
""")
# made before the latest results, so that there is something to look at
_PREDICTORS_SQL = text("""
    INSERT INTO predictors (platform_id, version, size_bytes, created_at, subject, state, reason, sha256, lineage,
        evidence, file)
    SELECT p.id, 1, 1, now() - interval '30 days', s, 'active', 'made up', '', '{}',
        '{"rows": {"alone": 40, "models": 20}}', 'x'
    FROM platforms p, unnest(ARRAY['fc', 'conv-bn-act', 'model']) s WHERE p.key NOT LIKE '%~%'
""")
_COUNT_SQL = text("""
    SELECT (SELECT count(*) FROM support_outcomes) + (SELECT count(*) FROM fusions)
        + (SELECT count(*) FROM board_platforms)
""")


def newer_calls(database: Database) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every call that reads or writes the newer tables, in an order in which each has what it needs."""
    with database.transaction(read_only=True) as tx:
        board = str(tx.execute(_FREE_BOARD, {"model": f"model-{MODEL}"}).scalar_one())
    for calls in (_support(), _fusions(), _options(), _timings(board), _adaptations(board), _refreshes()):
        for name, call in calls.items():
            yield name, in_transaction(database, call)


_FREE_BOARD = text("""
    SELECT public_id FROM boards b WHERE board_model = :model
        AND NOT EXISTS (SELECT FROM leases l WHERE l.board_id = b.id AND l.ended_at IS NULL) ORDER BY id LIMIT 1
""")


def _support() -> dict[str, Call]:
    def second_page(tx: Transaction) -> None:
        first = support.list_support(tx, limit=5)
        support.list_support(tx, cursor=first.next_cursor, limit=5)

    model = f"model-{MODEL}"
    return {
        "support": support.list_support,
        "support, next page": second_page,
        "support of a family": lambda tx: support.list_support(tx, family="fc"),
        "support of an engine": lambda tx: support.list_support(tx, engine="openvino", precision=Precision.FP32),
        "support of a board model": lambda tx: support.list_support(tx, board_model=model),
    }


def _fusions() -> dict[str, Call]:
    key, row = _with_option(MODEL, 1).key, FusionRow(first="Conv", second="Relu", t1_ms=1, t2_ms=0.2, t12_ms=1)
    return {
        "fusion rules": lambda tx: fusions.get_fusions(tx, key),
        "fusion report": lambda tx: fusions.report(tx, key, FusionReport(rows=(row,))),
        "kernels of a model": lambda tx: fusions.model_kernels(tx, "squeezenet", key, CALLER),
    }


def _options() -> dict[str, Call]:
    """One platform that was wanted before and one that nobody has."""
    known, fresh = _with_option(MODEL, 1).key, _with_option(MODEL, 99_999).key
    return {
        "platform with an option": lambda tx: platforms.get_platform(tx, known),
        "results with an option": lambda tx: results.list_results(tx, CALLER, ResultsWanted(platform=known)),
        **_job("an option", platforms=[known, fresh]),
    }


def _timings(board: str) -> dict[str, Call]:
    """In situ by a profiler and by difference, and profiles; a board is offered what waits."""
    profiled, by_difference = _base(MODEL).key, _base(MODEL, PLATFORMS_PER_MODEL - 1).key
    return {
        **_job("in situ", platforms=[profiled, by_difference], timing="in_situ"),
        **_job("profile", platforms=[profiled], protocol={"name": "profile"}),
        "dispatch in situ": lambda tx: dispatching.dispatch(tx, board, TIMES),
    }


def _adaptations(board: str) -> dict[str, Call]:
    """One from its probes to its end, looked at, kept in its budget and given up."""
    found: list[adaptations.Adaptation] = []

    def start(tx: Transaction) -> None:
        made = adaptations.start(tx, _base(MODEL).key, AdaptationRequest(), by=CALLER)
        one = adaptations.claim(tx, made.id)
        assert one is not None
        adaptations.move(tx, one, AdaptationState.PROBING)
        found.append(one)

    def want(tx: Transaction) -> None:
        one = found[0]
        whose = Whose(one.id, one.account_id, one.platform_id, one.platform)
        drawn = [Ask(kernel_type("fc").workload(config)) for config in draw("fc", 12, WORKLOADS)]
        asks = adaptation_items.costed(drawn, one.platform)
        adaptation_items.declare_holdouts(tx, whose, asks[:9], 9)
        adaptation_items.want(tx, whose, asks, purpose=Purpose.PROBE, round_no=0, limit_s=1e9)

    return {
        "start an adaptation": start,
        "want for an adaptation": want,
        "dispatch for an adaptation": lambda tx: dispatching.dispatch(tx, board, TIMES),
        "budgets": adaptation_budgets.keep,
        "wake adaptations": adaptations.wake,
        "adaptations": adaptations.list_adaptations,
        "room for a job": lambda tx: accounts.check_room(tx, 1, 1),
        "cancel an adaptation": lambda tx: adaptations.cancel(tx, found[0].id, by=CALLER),
    }


def _refreshes() -> dict[str, Call]:
    """What is due on one platform and on all, what it would learn from, and hold-outs that are measured again."""
    base = _base(MODEL)

    def again(tx: Transaction) -> None:
        row = platforms.find(tx, base.key)
        due = Due(row.id, base, "fc", Since(40, 20), tx.now, "", None, True, DonorChoice.ANY)
        refreshes.begin(tx, due)
        refreshes.want_holdouts_again(tx, due)

    return {
        "refreshes due": lambda tx: refreshes.due_on(tx, base.id),
        "rows of a platform": lambda tx: training_rows.find_rows(tx, platforms.find(tx, base.key).id),
        "hold-outs of a platform": lambda tx: training_rows.find_holdouts(tx, platforms.find(tx, base.key).id),
        "hold-outs again": again,
        "wake refreshes": refreshes.wake,
    }


def _job(what: str, **wanted: Any) -> dict[str, Call]:
    """A job from its dry run to why it waits."""
    drawn = [{"kind": "kernel", "type": "fc", "config": config} for config in draw("fc", 11, WORKLOADS)]
    request = JobRequest.model_validate({"workloads": drawn, **wanted})
    made: list[str] = []

    def submit(tx: Transaction) -> None:
        jobs.dry_run(tx, request, CALLER)
        made.append(jobs.submit(tx, request, by=CALLER)[0].id)

    return {
        f"submit {what}": submit,
        f"plan {what}": lambda tx: planning.plan_chunk(tx, made[-1]),
        f"why {what}": lambda tx: jobs.explain(tx, made[-1], CALLER),
    }
