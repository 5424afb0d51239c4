"""How fast numpy alone predicts: CPU seconds for thousands of architectures by each kind of model; what files weigh.

The predictors know nothing: their latencies are made of costs, their trees are grown at random. Their sizes are those
that training gives.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np

from bench.report import command_run, write_section
from benchfarm_predictor.composition import KernelSum, fit_whole_model
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.networks import Layer, Network
from benchfarm_predictor.predictions import Predictions, answer
from benchfarm_predictor.predictor_file import WHOLE_MODEL, Header, Lineage, Predictor, read, write
from benchfarm_predictor.quantities import quantities
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_predictor.trees import Forest, Tree, Trees
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.spaces import draws, kernels

Row = dict[str, object]
HEADER: Final = Header(
    kernel_type=WHOLE_MODEL,
    platform="bench",
    lineage=Lineage(data_hash="none", rule_version=1, code_version="0.1.0"),
)
DISTINCT: Final = 500
"""Architectures that are laid out; more are made by putting halves of their kernel lists together."""
REPEATS: Final = 3


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", type=int, default=5000)
    parser.add_argument("--space", default="ofa_mobilenet_v3")
    parser.add_argument("--print", action="store_true", help="print the table instead of writing it")
    given = parser.parse_args()
    rows = measured(kernel_lists(given.space, given.architectures))
    if given.print:
        for row in rows:
            print(row)
        return
    write_section("Predicting with numpy", command_run(), rows)


def kernel_lists(space: str, count: int) -> list[list[CountedKernel]]:
    """As many kernel lists as wanted, of the space's own kernels."""
    laid_out: list[list[CountedKernel]] = [
        [*kernels(architecture, FusionRules())] for architecture in draws(space, "predicting", min(count, DISTINCT))
    ]
    chance = np.random.default_rng(0)
    while len(laid_out) < count:
        one, other = (laid_out[int(place)] for place in chance.integers(len(laid_out), size=2))
        laid_out.append([*one[: len(one) // 2], *other[len(other) // 2 :]])
    return laid_out


def measured(counted: list[list[CountedKernel]]) -> list[Row]:
    """Each step on its own, from kernel lists to answers."""
    lists = KernelLists.of(counted)
    whole = fit_whole_model(lists.take(slice(0, 200)), costs_ms(lists.take(slice(0, 200)))).model
    rows = [row("kernel lists from configurations", len(counted), lambda: KernelLists.of(counted))]
    models: dict[str, Model] = {"ridge on sums": whole}
    for name, make in (("ridges", a_ridge), ("networks", a_network), ("trees", some_trees)):
        models[f"sum of {name}"] = KernelSum({each: make(lists.by_type[each].kernels) for each in lists.by_type}, None)
    for name, model in models.items():
        predictor = Predictor(HEADER, model, None, TrainedRange.of(lists))
        data = write(predictor)
        rows += [
            row(f"{name}: milliseconds", len(counted), partial(predicted, predictor.model, lists)),
            row(f"{name}: whole answer", len(counted), partial(answered, predictor, lists)),
            {**row(f"{name}: file read", 1, partial(read, data)), "bytes": len(data)},
        ]
    return [*rows, resident(write(Predictor(HEADER, models["sum of trees"])))]


def predicted(model: Model, lists: KernelLists) -> Floats:
    """Milliseconds of lists whose features were not made yet."""
    return model.predict(lists.take(slice(None)))


def answered(predictor: Predictor, lists: KernelLists) -> Predictions:
    """The same with intervals and what is unknown."""
    return answer(predictor, lists.take(slice(None)))


def row(name: str, count: int, step: Callable[[], object]) -> Row:
    """The least of several runs, in CPU time: neighbours on the machine count little."""
    taken_s = []
    for _ in range(REPEATS):
        begun = time.process_time()
        step()
        taken_s.append(time.process_time() - begun)
    return {"step": name, "rows": count, "CPU, s": min(taken_s)}


def resident(data: bytes, count: int = 100) -> Row:
    """What a hundred predictors add to the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = [read(data) for _ in range(count)]
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"step": "resident sums of trees", "rows": len(kept), "bytes": len(data), "grown, MB": grown_mb}


def costs_ms(lists: KernelLists) -> Floats:
    """Milliseconds as work and traffic would have them."""
    return lists.sums(kernel_ms)


def kernel_ms(table: Kernels) -> Floats:
    """5 us a kernel, 50 GFLOP/s and 10 GB/s."""
    found = quantities(table)
    assert found is not None  # spaces consist of the catalogue's kernels
    return 0.005 + found.flops / 5e7 + found.total_bytes / 1e7


def a_ridge(table: Kernels) -> Model:
    """On quadratic features."""
    rows = table if len(table) > 1 else table.take(np.array([0, 0]))
    return fit_ridge(kernel_features(table, "quadratic"), rows, kernel_ms(rows)).model


def a_network(table: Kernels) -> Model:
    """Three layers of 96."""
    features, chance = kernel_features(table), np.random.default_rng(0)
    sizes = (len(features.names), 96, 96, 96, 1)
    layers = tuple(
        Layer(
            chance.standard_normal((out, into), dtype=np.float32) / np.float32(np.sqrt(into)),
            np.zeros(out, dtype=np.float32),
            "none" if out == 1 else "silu",
        )
        for into, out in pairwise(sizes)
    )
    return Network(features, layers, np.zeros(sizes[0]), np.full(sizes[0], 10.0))


def some_trees(table: Kernels, trees: int = 200, leaves: int = 16) -> Model:
    """Complete trees: 200 of 16 leaves."""
    features, chance = kernel_features(table), np.random.default_rng(0)
    inner, nodes = leaves - 1, 2 * leaves - 1
    own = np.arange(nodes)
    grown = [
        Tree(
            np.where(own < inner, chance.integers(len(features.names), size=nodes), -1),
            chance.uniform(0, 10, nodes),
            2 * own + 1,
            2 * own + 2,
            chance.standard_normal(nodes) / trees,
        )
        for _ in range(trees)
    ]
    return Trees(features, Forest.of(grown), compare="float32")


if __name__ == "__main__":
    main()
