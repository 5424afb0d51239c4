"""A small corpus that was never measured: times follow from a latency law and a seed, as a farm's would look."""

from collections.abc import Sequence

import numpy as np

from bench.corpus_measure import manifest_of
from bench.corpus_plan import Kind, Portion
from bench.corpus_rows import Generation, PlatformCorpus, Row, Session, text_of
from benchfarm_core.measurements import Timing
from benchfarm_core.summaries import Grade
from benchfarm_core.values import digest
from benchfarm_core.workloads import ArchitectureWorkload
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.spaces import kernels
from tests.predictor.training.farm_rows import Platform

HOST = "host-0123456789ab/c1.t1.free/{}-1.0/fp32"
BOARD_S = 0.5
NOISE = 0.01
GENERATION = "0a1b2c3d"
SESSION = Session(began_unix_s=1_790_000_000, commit="0123456789ab", machine="made up", command="none")


Lists = dict[tuple[Kind, str], int]


def made_corpus(engine: str, law: Platform, lists: Lists) -> PlatformCorpus:
    """A platform with the first so many of each list; each costs half a second of a board."""
    key = HOST.format(engine)
    wanted = [Portion(key, kind, space, 0, count) for (kind, space), count in lists.items()]
    rows = [row for portion in wanted for row in made_rows(portion, law)]
    return PlatformCorpus(manifest_of(key, GENERATION, rows, (SESSION,)), rows)


def made_generation(corpus: PlatformCorpus) -> Generation:
    """The same as one generation measured it, every portion in half a minute."""
    return Generation(corpus.manifest, tuple(corpus.rows), {row.portion_name: 30.0 for row in corpus.rows})


def made_rows(portion: Portion, law: Platform) -> list[Row]:
    """The rows of a portion; hold-outs again take what they took, but for the noise."""
    times_ms = _times_ms(portion, law)
    found = []
    for at, workload in enumerate(portion.workloads):
        name = digest([portion.platform, portion.kind, text_of(workload)], length=8)
        noise = float(np.exp(NOISE * np.random.default_rng(int(name, 16)).standard_normal()))
        found.append(Row(
            kind=portion.kind,
            drawn_for=portion.space,
            number=portion.start + at,
            workload=text_of(workload),
            timing=portion.timing,
            repeat=2 if portion.kind == "again" else 1,
            split="holdout" if portion.kind in {"holdout", "again"} else "train",
            normalised_ms=float(times_ms[at]) * noise,
            median_ms=float(times_ms[at]) * noise * 1.05,
            grade=Grade.A,
            canary_ns=1000,
            lease_id="7",
            lease_s=BOARD_S * portion.size,
            board_s=BOARD_S,
            session=0,
            measured_unix_s=1_790_000_100 + (portion.kind == "again"),
            generation=GENERATION,
        ))  # fmt: skip
    return found


def _times_ms(portion: Portion, law: Platform) -> Floats:
    networks = [one for one in portion.workloads if isinstance(one, ArchitectureWorkload)]
    if networks:
        return law.model_ms(KernelLists.of(kernels(one, FusionRules()) for one in networks))
    return np.array([_kernel_ms(one.type, [one.config], law, portion.timing) for one in portion.workloads])  # type: ignore[union-attr]


def _kernel_ms(type_name: str, configs: Sequence[dict[str, int | str]], law: Platform, timing: Timing) -> float:
    batch = Kernels.of_configs(type_name, configs)
    return float((law.alone_ms if timing is Timing.ALONE else law.in_situ_ms)(batch)[0])
