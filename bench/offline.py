"""How fast a table of a search space answers, for one core, and that it says bit for bit what its predictor says.

Predictors of every kind that training makes are fitted to made-up latencies of the space, and one is chosen as a farm
chooses it. Goal: 1,000,000 architectures in a second of one core. A predictor with a smooth surface in it takes longer,
and has no goal: each architecture is held against every point of the surface. Other bits end it at once.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from bench.report import options, tell
from benchfarm_core.architectures import Architecture
from benchfarm_core.predictor_headers import Header, Lineage
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_predictor.answers import Sheet, answer_sheet, model_sheet
from benchfarm_predictor.combined import Regional, Residual, Stacked
from benchfarm_predictor.composition import KernelSum, fit_fallback, fit_kernel_sum, fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.quantities import quantities
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.space_tables import Encoded, SpaceTable, compiled
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_predictor.training.learners import smooth_surface
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import Space, draws, space
from benchfarm_workloads.spaces.every_block import every_block

Row = dict[str, object]
HEADER: Final = Header(
    kernel_type=WHOLE_MODEL,
    platform="bench",
    lineage=Lineage(data_hash="none", rule_version=1, code_version="0.1.0"),
)
SHARES: Final = SumFeatures("shares")
TAUGHT: Final = 100
CHECKED: Final = 2_000
REPEATS: Final = 3
NOISE: Final = 0.02
GOAL: Final = 1_000_000
"""Architectures in a second of one core."""
SMOOTHED: Final = "ridge + smooth"


def main() -> int:
    """Measure, write the section; 1 where the goal is missed."""
    parser = options(__doc__)
    parser.add_argument("--architectures", type=int, default=1_000_000)
    parser.add_argument("--spaces", nargs="+", default=["ofa_mobilenet_v3"])
    given = parser.parse_args()
    rows = [row for name in given.spaces for row in measured(name, given.architectures)]
    return tell("Tables of search spaces without a network", rows, printed=given.print)


def measured(name: str, count: int) -> list[Row]:
    """A row for each kind of predictor."""
    known = NetworkKernels(FusionRules())
    taught = sheet(known, draws(name, "taught", TAUGHT)).batch
    assert isinstance(taught, KernelLists)
    asked = draws(name, "asked", CHECKED)
    rows = []
    for kind, predictor in predictors(name, taught).items():
        begun_s = time.process_time()
        table = made(predictor, space(name), known)
        made_s = time.process_time() - begun_s
        check_all_same(f"{name}, {kind}", same(table, space(name), predictor, known, asked), len(asked))
        figures = told(table, space(name), asked, count)
        judged = held_to_goal(kind, figures["a second of a core"])
        rows.append({"space": name, "predictor": kind, **figures, "same bits": len(asked), "made, s": made_s, **judged})
    return rows


def check_all_same(of: str, alike: int, count: int) -> None:
    """Raise SystemExit where a table says anything else than its predictor: how fast it is does not matter then."""
    if alike != count:
        raise SystemExit(f"{of}: {count - alike} of {count} architectures have other bits than their predictor says")


def held_to_goal(kind: str, each_second: float) -> Row:
    """The goal of a kind of predictor, and whether so many architectures in a second of a core meet it."""
    has_goal = kind != SMOOTHED
    return {"goal": f">= {GOAL:,}" if has_goal else "", "met": each_second >= GOAL if has_goal else ""}


def made(predictor: Predictor, of_space: Space, known: NetworkKernels) -> SpaceTable:
    """The table of the whole space."""
    blocks, slots = every_block(of_space, {})
    parts = [known.block(of_space, block) for block in blocks]
    return compiled(predictor, of_space, blocks, parts, slots, draws(of_space.name, "looked at", 100))


def told(table: SpaceTable, of_space: Space, asked: Sequence[Architecture], count: int) -> dict[str, int]:
    """Architectures in a second of one core: CPU time, so that neighbours count little; blocks are mixed anew."""
    codes = table.encode(of_space, asked)
    many = codes[:, np.random.default_rng(0).integers(codes.shape[1], size=count)]
    spent = [seconds(lambda: through(table, many)) for _ in range(REPEATS)]
    # as `benchfarm.offline.Table.encode`, which is given genes and looks at them first
    encoded = seconds(lambda: table.encode(of_space, [of_space.validate(one.genes) for one in asked]))
    return {
        "blocks": len(table.blocks),
        "sums": len(table.packed),
        "architectures": count,
        "a second of a core": round(count / min(spent)),
        "encoded a second": round(len(asked) / encoded),
    }


def seconds(step: Callable[[], object]) -> float:
    """CPU seconds of all threads."""
    begun_s = time.process_time()
    step()
    return time.process_time() - begun_s


def through(table: SpaceTable, codes: Encoded) -> None:
    """Latencies and intervals of all."""
    for _ in table.answers(codes):
        pass


def same(
    table: SpaceTable, of_space: Space, predictor: Predictor, known: NetworkKernels, asked: Sequence[Architecture]
) -> int:
    """Of how many architectures latency and interval are those of the predictor itself, to the last bit."""
    farms = answer_sheet(predictor, sheet(known, asked))
    found = [part.numbers for part in table.answers(table.encode(of_space, asked))]
    own = [np.concatenate([getattr(each, name) for each in found]) for name in ("latency_ms", "low_ms", "high_ms")]
    are_same = [each == other for each, other in zip(own, (farms.latency_ms, farms.low_ms, farms.high_ms), strict=True)]
    return int(np.all(are_same, axis=0).sum())


def sheet(known: NetworkKernels, architectures: Sequence[Architecture]) -> Sheet:
    """A question of architectures."""
    return model_sheet((at, known.parts(space(one.space), one.genes)) for at, one in enumerate(architectures))


def predictors(name: str, taught: KernelLists) -> Mapping[str, Predictor]:
    """What the farm's training makes of whole models, from the plainest on."""
    chance = np.random.default_rng(0)
    latency_ms = taught.sums(kernel_ms) * np.exp(NOISE * chance.standard_normal(len(taught)))
    ridge = fit_whole_model(taught, latency_ms).model
    summed = fit_kernel_sum(kernel_sum(taught), taught, latency_ms).model
    ratio = fit_ridge(SHARES, taught, latency_ms / summed.predict(taught)).model
    surface = smooth_surface(SHARES, taught, np.log(latency_ms / ridge.predict(taught)), 0, TAUGHT)
    models: dict[str, Model] = {
        "ridge on sums": ridge,
        "sum of kernels": summed,
        "sum of kernels + ridge": Residual(summed, ratio),
        "mean of both": Stacked((ridge, Residual(summed, ratio)), (0.5, 0.5), 0.0),
        SMOOTHED: Residual(ridge, surface),
    }
    models["one region: mean of both"] = region(name, taught, (ridge, summed, ratio), (0.5, 0.5, 0.5))
    trained = TrainedRange.of(taught)
    whole = Predictor(HEADER, ridge, None, trained)
    return {
        kind: replace(whole, model=model, intervals=calibrate(model.predict(taught), latency_ms))
        for kind, model in models.items()
    }


def region(name: str, taught: KernelLists, members: tuple[Model, ...], weights: tuple[float, ...]) -> Regional:
    """As a platform's predictor has the space that it learnt."""
    x = SHARES.matrix(taught)
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 0.1)
    radius = 2 * np.sqrt((((x - centre) / scale) ** 2).mean(axis=1)).max()
    powers = np.array([weights, (1.0, *(0.0,) * (len(members) - 1))])
    return Regional(
        members, powers, np.zeros(2), (name,), SHARES, centre[None], scale[None], np.array([radius]), np.ones(2)
    )


def kernel_sum(taught: KernelLists) -> KernelSum:
    """A ridge for each kernel type with ten configurations, the others by their costs."""
    tables = [entries.kernels for entries in taught.by_type.values()]
    fits = {
        one.type: fit_ridge(kernel_features(one, "quadratic"), one, kernel_ms(one)).model
        for one in tables
        if len(one) >= 10
    }
    return KernelSum(fits, fit_fallback({one.type: (one, kernel_ms(one)) for one in tables}))


def kernel_ms(table: Kernels) -> Floats:
    """5 us a kernel, 50 GFLOP/s and 10 GB/s."""
    found = quantities(table)
    assert found is not None  # spaces consist of the catalogue's kernels
    return 0.005 + found.flops / 5e7 + found.total_bytes / 1e7


if __name__ == "__main__":
    sys.exit(main())
