"""What a refresh of one kernel's predictor costs: CPU seconds of one process, with donors and without.

Libraries compute with one thread, as in the process that trains: several would spin beside each other. With two cores:
`OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m bench.refreshing`.

The platforms are made up: a roofline with blocks of channels and noise. What fitting costs depends on how many rows and
donors there are, and hardly on what they say.
"""

import time
from typing import Final

import numpy as np

from bench.report import options, tell
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.quantities import quantities
from benchfarm_predictor.training.measured import Measured
from benchfarm_predictor.training.model_donors import PlatformDonor
from benchfarm_predictor.training.platform_fit import donor_of, fit_kernel
from benchfarm_predictor.training.platform_rows import PlatformRows, measured_models
from benchfarm_workloads.draws import draw

Row = dict[str, object]
KERNELS: Final = ("conv-bn-act", "dwconv-bn-act", "linear")
"""Those with the most configurations; two of the donors' configurations in three are the platform's own."""
GOAL_S: Final = 10.0
NOISE: Final = 0.01
LANES: Final = 16


def main() -> int:
    """Measure, write the section; 1 where the goal is missed."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--donors", type=int, default=3)
    parser.add_argument("--kernels", nargs="+", default=KERNELS)
    given = parser.parse_args()
    rows = [
        refreshed(name, given.rows, donors) for name in given.kernels for donors in dict.fromkeys((0, given.donors))
    ]
    return tell("A refresh of one kernel", rows, printed=given.print)


def refreshed(kernel_type: str, count: int, donors: int) -> Row:
    """One refresh; donors are fitted beforehand, as they lie in the pool."""
    lenders = [lender(kernel_type, count, number) for number in range(1, donors + 1)]
    rows = platform_rows(kernel_type, count, 0)
    begun_s = time.process_time()
    fit = fit_kernel(rows, kernel_type, lenders)
    taken_s = time.process_time() - begun_s
    return {
        "kernel": kernel_type,
        "rows": count,
        "donors": donors,
        "CPU, s": taken_s,
        "bytes": len(fit.file()),
        "within 10 %, unseen": "" if fit.unseen is None else f"{fit.unseen.within_10:.1%}",
        "made of": ", ".join(fit.chosen),
        "goal": f"<= {GOAL_S:g} s",
        "met": taken_s <= GOAL_S,
    }


def lender(kernel_type: str, count: int, number: int) -> PlatformDonor:
    """A donor that measured some of the platform's configurations, and others."""
    return donor_of(platform_rows(kernel_type, count, number))


def platform_rows(kernel_type: str, count: int, number: int) -> PlatformRows:
    """The rows of a platform; the first is the one that is refreshed."""
    shared = draw(kernel_type, 0, count)[: 2 * count // 3 if number else count]
    known = {tuple(config.items()) for config in shared}
    others = [config for config in draw(kernel_type, number, count) if tuple(config.items()) not in known]
    kernels = Kernels.of_configs(kernel_type, [*shared, *others][:count])
    measured = Measured(kernels, made_up_ms(kernels, number))
    nothing = measured_models([])
    return PlatformRows(f"made-up-{number}", {kernel_type: measured}, {}, nothing, 1, "made up")


def made_up_ms(kernels: Kernels, number: int) -> Floats:
    """Work in blocks of channels or traffic, whichever is slower, at rates of the platform's own."""
    found = quantities(kernels)
    assert found is not None  # only types of the catalogue are drawn
    chance = np.random.default_rng(number)
    gflops, gbytes = np.exp(chance.uniform(-0.7, 0.7, 2)) * (50, 10)
    blocks = np.ceil(found.width / LANES) * LANES / found.width
    plain_ms = 0.01 + np.maximum(found.flops * blocks / (1e6 * gflops), found.total_bytes / (1e6 * gbytes))
    noisy_ms: Floats = plain_ms * np.exp(NOISE * chance.standard_normal(len(kernels)))
    return noisy_ms


if __name__ == "__main__":
    raise SystemExit(main())
