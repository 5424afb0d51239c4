"""Platforms of a farm in Postgres with results of probes, whose times the test chooses."""

import json
from collections.abc import Mapping
from typing import Any

from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.predictors import TrainingRows
from benchfarm_core.workloads import KernelRequest
from benchfarm_store.encodings import workload_digest
from benchfarm_workloads.probes import probe_set
from tests.store.conftest import Agent, Farm

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
WIDE = "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32"
CONV = "conv-bn-act"


class Probing:
    """Measures the convolutions of the probe set with an agent's first board."""

    def __init__(self, farm: Farm, by: Any, agent: Agent) -> None:
        self.farm, self.by, self.agent = farm, by, agent

    def measure(self, *keys: str, timing: Timing = Timing.ALONE) -> None:
        """Anew, on each of the platforms; everything takes a millisecond."""
        self.ask(*keys, timing=timing)
        self.agent.measure_all()

    def ask(self, *keys: str, timing: Timing = Timing.ALONE) -> None:
        """Have it wanted on each of the platforms."""
        wanted = probe_set().kernels if timing == Timing.ALONE else probe_set().in_situ
        workloads = [KernelRequest(type=one.type, config=one.config) for one in wanted if one.type == CONV]
        fields = {"workloads": workloads, "platforms": keys or (KEY,), "max_age_s": 0, "timing": timing}
        self.farm.submit_planned(self.by, JobRequest.model_validate(fields))

    def set_times(self, key: str, times_ms: Mapping[str, float]) -> None:
        """Normalised times by workload id, of every result of the platform."""
        rows = [{"digest": workload_digest(id_), "ms": ms} for id_, ms in times_ms.items()]
        self.farm.run(
            "UPDATE summaries s SET normalised_ms = x.ms FROM measurements m, workloads w, platforms p,"
            " jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(digest uuid, ms float8)"
            " WHERE m.id = s.measurement_id AND w.id = m.workload_id AND w.digest = x.digest AND p.id = m.platform_id"
            " AND p.key = :key",
            rows=json.dumps(rows),
            key=key,
        )

    def row_of(self, key: str) -> int:
        return int(self.farm.scalar("SELECT id FROM platforms WHERE key = :key", key=key))

    def id_of(self, key: str) -> str:
        return str(self.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=key))


def alone_ms(rows: TrainingRows) -> dict[str, float]:
    """The rows' times of kernels alone."""
    return {row.workload_id: row.normalised_ms for row in rows.kernels if row.timing == Timing.ALONE}
