"""The schema, private to this package. Every other module of the farm goes through functions.

Things that results point at carry a small surrogate `id`, because a million rows repeat it; the id that
people see is `public_id`. Columns are ordered wide to narrow, so that rows carry no padding.
"""

from benchfarm_store.adaptation_tables import adaptation_items, adaptation_rounds, adaptations
from benchfarm_store.bundle_tables import bundle_parts, bundles
from benchfarm_store.comparison_tables import comparisons, pairs
from benchfarm_store.export_tables import export_misses, exports, farm_keys
from benchfarm_store.farm_tables import (
    accounts,
    agents,
    board_events,
    board_platforms,
    boards,
    enrol_tokens,
    farms,
    generations,
    health_changes,
    models,
    platform_aliases,
    platforms,
    protocols,
    tokens,
    workloads,
)
from benchfarm_store.health_tables import board_model_merges, golden_runs, golden_times
from benchfarm_store.pool_tables import likenesses, pool_entries, pool_predictors, probed_platforms
from benchfarm_store.predictor_tables import predictor_looks, predictors
from benchfarm_store.result_tables import (
    FUSION_KEY,
    SUPPORT_KEY,
    canary_goldens,
    events,
    fusion_rules,
    fusions,
    kept_tries,
    launches,
    orphans,
    results,
    samples,
    summaries,
    support_outcomes,
)
from benchfarm_store.schema import metadata
from benchfarm_store.set_tables import measurement_set_kernels, measurement_sets
from benchfarm_store.work_tables import (
    idempotency_keys,
    job_items,
    jobs,
    lease_items,
    leases,
    measurements,
    queues,
)

__all__ = [
    "FUSION_KEY",
    "SUPPORT_KEY",
    "accounts",
    "adaptation_items",
    "adaptation_rounds",
    "adaptations",
    "agents",
    "board_events",
    "board_model_merges",
    "board_platforms",
    "boards",
    "bundle_parts",
    "bundles",
    "canary_goldens",
    "comparisons",
    "enrol_tokens",
    "events",
    "export_misses",
    "exports",
    "farm_keys",
    "farms",
    "fusion_rules",
    "fusions",
    "generations",
    "golden_runs",
    "golden_times",
    "health_changes",
    "idempotency_keys",
    "job_items",
    "jobs",
    "kept_tries",
    "launches",
    "lease_items",
    "leases",
    "likenesses",
    "measurement_set_kernels",
    "measurement_sets",
    "measurements",
    "metadata",
    "models",
    "orphans",
    "pairs",
    "platform_aliases",
    "platforms",
    "pool_entries",
    "pool_predictors",
    "predictor_looks",
    "predictors",
    "probed_platforms",
    "protocols",
    "queues",
    "results",
    "samples",
    "summaries",
    "support_outcomes",
    "tokens",
    "workloads",
]
