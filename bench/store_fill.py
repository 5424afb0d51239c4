"""Fills a farm's database with a million results and a million wishes, by COPY-like statements, not one by one."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import EngineSpec, OperatingPoint, Platform, Precision
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.workloads import KernelWorkload, workload_id
from benchfarm_store.database import Database, Transaction
from benchfarm_store.sample_codec import encode
from benchfarm_workloads.draws import draw_mixed

ACCOUNTS = 5
BOARDS = 1000
BOARD_MODELS = 100
PLATFORMS_PER_MODEL = 6
PLATFORMS_PER_WORKLOAD = 50
ITEMS_PER_JOB = 10_000
ITEMS_PER_LEASE = 20
EVENTS_PER_JOB = 500
SAMPLE_KINDS = 200
EMPTY_PER_QUEUE = 9
"""Queues in which nothing waits any more, for each one that is used."""


def fill_farm(database: Database) -> None:
    """Accounts, agents, boards, platforms and queues."""
    with database.transaction() as tx:
        _fill_farm(tx)


def fill_results(database: Database, count: int) -> None:
    """Measured results with all they point at: jobs, leases, launches, samples, summaries."""
    with _long(database) as tx:
        _fill_measurements(tx, 1, count, "done")
        _fill_jobs(tx, count, "succeeded")
        _fill_results(tx)
        _fill_samples(tx)


def fill_wishes(database: Database, count: int) -> None:
    """Waiting measurements of other workloads, each wanted by a job."""
    with _long(database) as tx:
        _fill_measurements(tx, 2, count, "wanted")
        _fill_jobs(tx, count, "pending")
        tx.execute(_EMPTY_QUEUES_SQL, {"protocols": EMPTY_PER_QUEUE})


@contextmanager
def _long(database: Database) -> Iterator[Transaction]:
    with database.transaction() as tx:
        tx.execute(text("SET LOCAL statement_timeout = 0"))
        yield tx


def _fill_farm(tx: Transaction) -> None:
    tx.execute(_ACCOUNTS_SQL, {"n": ACCOUNTS})
    tx.execute(_AGENTS_SQL, {"n": BOARDS // 10})
    tx.execute(_BOARDS_SQL, {"n": BOARDS, "models": BOARD_MODELS})
    tx.execute(text("INSERT INTO generations (board_id, name, created_at) SELECT id, 'g1', now() FROM boards"))
    tx.execute(text("UPDATE boards b SET generation_id = g.id FROM generations g WHERE g.board_id = b.id"))
    platforms = [platform_of(n) for n in range(BOARD_MODELS * PLATFORMS_PER_MODEL)]
    rows = [{"id": p.id, "key": p.key, "spec": p.model_dump_json()} for p in platforms]
    tx.execute(_PLATFORMS_SQL, {"rows": json.dumps(rows)})
    tx.execute(_OFFERS_SQL)
    protocol = PROTOCOLS["kernel"]
    tx.execute(_PROTOCOL_SQL, {"id": protocol.id, "spec": protocol.model_dump_json()})
    tx.execute(_QUEUES_SQL)


def platform_of(number: int) -> Platform:
    """The platforms that boards are registered with, in order of their models."""
    model, kind = divmod(number, PLATFORMS_PER_MODEL)
    threads = kind % 2 + 1
    return Platform(
        board_model=f"model-{model}",
        operating_point=OperatingPoint(mode="free", cores=tuple(range(threads)), threads=threads),
        engine=EngineSpec(name=("onnxruntime", "openvino", "ncnn")[kind // 2], version="1.0.0"),
        precision=Precision.FP32,
    )


_ACCOUNTS_SQL = text("""
    INSERT INTO accounts (name, quota_pending_items, quota_active_jobs, quota_stored_bytes, device_s, device_s_at,
        created_at)
    SELECT 'account-' || n, 2000000, 1000, 1e9, random() * 1000, now(), now() FROM generate_series(1, :n) n
""")
_AGENTS_SQL = text("""
    INSERT INTO agents (id, account_id, name, agent_version, last_heard_at, created_at)
    SELECT 'a_' || n, 1, 'lab-' || n, '0.1.0', now() + interval '1 day', now() FROM generate_series(0, :n - 1) n
""")
_BOARDS_SQL = text("""
    INSERT INTO boards (public_id, agent_id, kind, serial, hardware_id, board_model, model_name, facts, engines,
        clock_proof, state, health, registered_at)
    SELECT 'b_' || n, 'a_' || n / 10, 'local', 's' || n, 'h', 'model-' || n % :models, 'Model', '{}', '[]', 0, 'idle',
        'good', now()
    FROM generate_series(0, :n - 1) n
""")
_PLATFORMS_SQL = text("""
    INSERT INTO platforms (public_id, key, spec, created_at)
    SELECT id, key, CAST(spec AS jsonb), now()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id text, key text, spec text)
""")
_OFFERS_SQL = text("""
    INSERT INTO board_platforms (board_id, platform_id)
    SELECT b.id, p.id FROM boards b JOIN platforms p ON p.spec->>'board_model' = b.board_model
""")
_PROTOCOL_SQL = text("INSERT INTO protocols (public_id, spec) VALUES (:id, CAST(:spec AS jsonb))")
_EMPTY_QUEUES_SQL = text("""
    WITH made AS (INSERT INTO protocols (public_id, spec) SELECT 'q_' || n, '{}' FROM generate_series(1, :protocols) n
        RETURNING id)
    INSERT INTO queues (platform_id, protocol_id, account_id, priority)
    SELECT q.platform_id, made.id, q.account_id, q.priority FROM queues q, made
""")
_QUEUES_SQL = text("""
    INSERT INTO queues (platform_id, protocol_id, account_id, priority)
    SELECT p.id, t.id, a.id, n FROM platforms p, protocols t, accounts a, generate_series(0, 2) n
""")


def _fill_measurements(tx: Transaction, seed: int, count: int, state: str) -> None:
    """`count` measurements of kernels drawn with a seed. Rows get their final state at once: what a farm leaves
    behind while states change is vacuumed and used again, and no measure of what a result takes."""
    kernels = {workload_id(kernel): kernel for kernel in draw_mixed(seed, -(-count // PLATFORMS_PER_WORKLOAD) + 50)}
    rows = [_workload(id_, kernel) for id_, kernel in kernels.items()]
    tx.execute(text("CREATE TEMPORARY TABLE drawn (digest uuid) ON COMMIT DROP"))
    tx.execute(text("CREATE TEMPORARY TABLE fresh (id bigint, n bigint, queue_id int) ON COMMIT DROP"))
    tx.execute(_WORKLOADS_SQL, {"rows": json.dumps(rows)})
    tx.execute(
        _MEASUREMENTS_SQL,
        {"n": count, "state": state, "sparse": BOARD_MODELS * PLATFORMS_PER_MODEL // PLATFORMS_PER_WORKLOAD},
    )


def _workload(id_: str, kernel: KernelWorkload) -> dict[str, object]:
    return {"digest": id_[2:], "spec": kernel.model_dump_json(), "family": kernel.type}


_WORKLOADS_SQL = text("""
    WITH made AS (
        INSERT INTO workloads (digest, spec, kind, family, flops, parameters, input_bytes, output_bytes, weight_bytes)
        SELECT digest, CAST(spec AS json), 'kernel', family, 1000000, 1000, 100000, 100000, 4000
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(digest uuid, spec text, family text)
        ON CONFLICT DO NOTHING RETURNING digest)
    INSERT INTO drawn SELECT digest FROM made
""")


# every workload on every twelfth platform; the account and class of a wish change with the workload
_MEASUREMENTS_SQL = text("""
    WITH made AS (
        INSERT INTO measurements (workload_id, platform_id, protocol_id, queue_id, wanted_at, expected_s, repeat_no,
            timing, state, purpose)
        SELECT w.id, q.platform_id, q.protocol_id, q.id, now() - random() * interval '10 minutes',
            0.4 + random() * 0.1, 0,
            'alone', :state, 'job'
        FROM (SELECT w.id, row_number() OVER (ORDER BY w.id) AS n FROM workloads w JOIN drawn USING (digest)) w
        JOIN queues q ON q.platform_id % :sparse = w.n % :sparse
            AND q.account_id = 1 + (w.n / 50) % 5 AND q.priority = (w.n / 7) % 3
        ORDER BY w.id LIMIT :n
        RETURNING id, queue_id)
    INSERT INTO fresh SELECT id, row_number() OVER (ORDER BY id), queue_id FROM made
""")


def _fill_jobs(tx: Transaction, count: int, state: str) -> None:
    tx.execute(text("CREATE TEMPORARY TABLE fresh_jobs (id uuid, n bigint) ON COMMIT DROP"))
    tx.execute(_JOBS_SQL, {"jobs": -(-count // ITEMS_PER_JOB), "items": ITEMS_PER_JOB, "count": count})
    tx.execute(_ITEMS_SQL, {"items": ITEMS_PER_JOB, "state": state})
    tx.execute(_EVENTS_SQL, {"n": EVENTS_PER_JOB, "data": json.dumps(_PROGRESS)})


_JOBS_SQL = text("""
    WITH made AS (INSERT INTO jobs (account_id, protocol_id, name, labels, state, priority, options, workload_ids,
        platform_ids,
        total, planned, pending, plan_cursor, created_at, event_number)
    SELECT 1 + n % 5, 1, 'job ' || n, '{"team": "nas"}', 'running', 1, '{"repeats": 1}', '{1}', '{1}',
        least(:items, :count - n * :items), 0, least(:items, :count - n * :items), :items, now(), 500
    FROM generate_series(0, :jobs - 1) n RETURNING id)
    INSERT INTO fresh_jobs SELECT id, row_number() OVER (ORDER BY id) FROM made
""")
_ITEMS_SQL = text("""
    INSERT INTO job_items (job_id, item_no, measurement_id, state, source)
    SELECT j.id, (m.n - 1) % :items, m.id, :state, 'new'
    FROM fresh m JOIN fresh_jobs j ON j.n = 1 + (m.n - 1) / :items ORDER BY j.id, m.n
""")


_EVENTS_SQL = text("""
    INSERT INTO events (job_id, number, kind, at, data)
    SELECT j.id, e, 'progress', now(), CAST(:data AS jsonb) FROM fresh_jobs j, generate_series(1, :n) e
""")
_PROGRESS = {
    "total": ITEMS_PER_JOB, "planned": 0, "pending": 5000, "succeeded": 5000, "failed": 0, "cancelled": 0, "known": 0,
}  # fmt: skip


def _fill_results(tx: Transaction) -> None:
    tx.execute(text("CREATE TEMPORARY TABLE measured (id bigint, lease bigint, position int) ON COMMIT DROP"))
    for statement in (_MEASURED_SQL, _LEASES_SQL, _LEASE_ITEMS_SQL, _LAUNCHES_SQL, _RESULTS_SQL, _SUMMARIES_SQL):
        tx.execute(statement, {"items": ITEMS_PER_LEASE, "evidence": json.dumps(_EVIDENCE)})
    tx.execute(_COUNT_JOBS_SQL)


_MEASURED_SQL = text("""
    INSERT INTO measured SELECT id, 1 + (n - 1) / :items, (n - 1) % :items FROM (
        SELECT id, row_number() OVER (ORDER BY queue_id, id) AS n FROM fresh) m
""")
_LEASES_SQL = text("""
    INSERT INTO leases (token, board_id, agent_id, generation_id, queue_id, offered_at, accepted_at, expires_at,
        ended_at, end_reason)
    SELECT gen_random_uuid(), b.id, b.agent_id, b.generation_id, 1, at, at, at, at, 'done'
    FROM (SELECT DISTINCT lease FROM measured ORDER BY lease) x
    JOIN boards b ON b.id = 1 + x.lease % (SELECT count(*) FROM boards)
    CROSS JOIN LATERAL (SELECT now() - x.lease % 40000 * interval '10 seconds' AS at) t ORDER BY x.lease
""")
_LEASE_ITEMS_SQL = text("""
    INSERT INTO lease_items (lease_id, measurement_id, position, started_at, finished_at, outcome)
    SELECT l.id, m.id, m.position, l.accepted_at, l.ended_at, 'ok' FROM measured m JOIN leases l ON l.id = m.lease
""")
_LAUNCHES_SQL = text("""
    INSERT INTO launches (lease_id, launch_no, evidence)
    SELECT l.id, n, CAST(:evidence AS jsonb) FROM leases l, generate_series(0, 2) n
""")
_RESULTS_SQL = text("""
    INSERT INTO results (measurement_id, lease_id, measured_at, platform_id, generation_id, artifact_sha256,
        effective_precision)
    SELECT m.id, l.id, l.ended_at, me.platform_id, l.generation_id,
        sha256(int8send(m.id)), 'fp32'
    FROM measured m JOIN leases l ON l.id = m.lease JOIN measurements me ON me.id = m.id
""")
_SUMMARIES_SQL = text("""
    INSERT INTO summaries (measurement_id, median_ms, normalised_ms, low_ms, high_ms, interval_coverage, spread,
        clean_share, blocks, rule_version, launches, clock_proof, active, grade, canary)
    SELECT id, 1 + random(), 1 + random(), 1, 2, 0.75, 0.01, 1, 60, 1, 3, 0, true, 'A', 'mobilenet' FROM measured
""")
_COUNT_JOBS_SQL = text("""
    UPDATE jobs SET succeeded = total, pending = 0, state = 'succeeded', finished_at = now(), progressed_at = now()
    WHERE id IN (SELECT id FROM fresh_jobs)
""")

_EVIDENCE = {
    "engine_version": "1.31.1", "precision": "fp32", "threads": 1, "threads_observed": 1, "affinity": [0],
    "confinement": ["no_new_privs", "rlimits", "uid", "network", "landlock", "seccomp"], "witness_cost_ns": 1834,
    "import_ms": 81.3, "canary_open_ms": 4.7, "began_unix_s": 1795185600.12, "first_block_unix_s": 1795185600.43,
    "ended_unix_s": 1795185603.9, "wall_ms": 3712.4, "timed_ms": 2411.9, "canary_ms": 310.8, "open_ms": 512.2,
    "peak_rss_bytes": 98123776, "load_1m_before": 0.42, "freq_khz_observed": [2400000, 2400000], "governor": None,
    "temperature_c_before": None, "temperature_c_after": None, "throttled": None,
}  # fmt: skip


def _fill_samples(tx: Transaction) -> None:
    """Packed samples of simulated visits, as many blocks as the protocol gives kernels of that length."""
    chance = random.Random(1)
    tx.execute(text("CREATE TEMPORARY TABLE packed (n int, data bytea) ON COMMIT DROP"))
    rows = [{"n": n, "data": encode(_visits(chance))} for n in range(SAMPLE_KINDS)]
    tx.execute(text("INSERT INTO packed VALUES (:n, :data)"), rows)
    tx.execute(
        text(
            "INSERT INTO samples (measurement_id, data) SELECT m.id, p.data FROM measured m"
            " JOIN packed p ON p.n = m.id % :kinds"
        ),
        {"kinds": SAMPLE_KINDS},
    )


def _visits(chance: random.Random) -> list[LaunchSamples]:
    """Three launches of a kernel between 2 us and 100 ms (log-uniform), with a 1 % spread and rare disturbances."""
    protocol = PROTOCOLS["kernel"]
    run_ns = 10 ** chance.uniform(3.3, 8)
    iterations = max(1, round(protocol.block_min_us * 1000 / run_ns))
    block_ns = run_ns * iterations
    blocks = max(protocol.blocks_min, min(protocol.blocks_max, round(protocol.visit_ms * 1e6 / block_ns)))
    return [_launch(chance, number, iterations, block_ns, blocks) for number in range(protocol.launches_min)]


def _launch(chance: random.Random, number: int, iterations: int, block_ns: float, blocks: int) -> LaunchSamples:
    level = chance.gauss(1, 0.005)
    canaries = {
        name: tuple((at, round(ns * chance.gauss(1, 0.01))) for at in range(0, blocks + 1, max(1, blocks // 3)))
        for name, ns in (("sgemm", 900_000), ("mobilenet", 2_100_000))
    }
    return LaunchSamples.model_validate(
        {
            "launch_no": number,
            "iterations": iterations,
            "blocks_ns": tuple(max(1, round(block_ns * level * chance.gauss(1, 0.01))) for _ in range(blocks)),
            "delays_ns": tuple(chance.choice((0,) * 19 + (chance.randrange(30_000),)) for _ in range(blocks)),
            "switches": tuple(int(chance.random() < 0.01) for _ in range(blocks)),
            "canaries": canaries,
            "open_ms": chance.uniform(1, 20),
            "first_ms": chance.uniform(0.1, 20),
            "warmup_runs": 20,
            "gate_relative_l2": chance.uniform(0, 1e-6),
            "timed_ms": 60 + chance.random(),
            "canary_ms": 9 + chance.random(),
        }
    )
