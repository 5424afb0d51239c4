"""How near the active predictor of a platform comes to fresh architectures of a search space, on a running farm.

The architectures are drawn by a seed, asked for first and then measured twice: the second measurement says how near a
measurement itself comes, which no predictor can beat. What was measured before is left out. All in `normalised_ms`,
with raw medians beside it. Each share with its 95 % interval (Clopper and Pearson).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm_core.jobs import JobRequest
from benchfarm_core.latency import LatencyAnswer
from benchfarm_core.workloads import ArchitectureRequest
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.metrics import binomial_interval, score

PREDICTOR: Final = Path(__file__).resolve().parents[1] / "docs" / "predictor.md"
LEAST: Final = 5
"""With fewer architectures nothing is said."""
Row = dict[str, object]


def main() -> None:
    """Ask, measure, compare; print, or write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="the farm")
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--platform", action="append", required=True, help="id, key or alias; repeatable")
    parser.add_argument("--space", action="append", required=True, help="repeatable")
    parser.add_argument("--archs", type=int, default=50)
    parser.add_argument("--seed", default="accuracy")
    parser.add_argument("--print", action="store_true", help="print the rows instead of writing them")
    given = parser.parse_args()
    with Client(given.url, given.token_file.read_text().strip()) as client:
        cells = [(platform, space) for platform in given.platform for space in given.space]
        rows = [row for cell in cells for row in compare(client, *cell, given.archs, given.seed)]
    if given.print:
        for row in rows:
            print(row)
        return
    write_section("Accuracy of active predictors", command_run(), rows, path=PREDICTOR)


def compare(client: Client, platform: str, space: str, count: int, seed: str) -> list[Row]:
    """The predictor's row and that of the second measurement; one that says why where there is none."""
    drawn = client.spaces.draw(space, seed=seed, count=count)
    said = [one for one in client.latency(drawn, [platform]) if one.source == "predicted"]
    fresh = [drawn[one.item_no] for one in said]
    if len(fresh) < LEAST:
        return [_nothing(platform, space, f"{len(fresh)} of {count} architectures are predicted")]
    first, second = (_measured(client, fresh, platform, seed) for _ in range(2))
    both = [at for at in range(len(fresh)) if at in first and at in second]
    if len(both) < LEAST:
        return [_nothing(platform, space, f"{len(both)} of {len(fresh)} architectures were measured twice")]
    predicted, inside = _predicted(said, both, first)
    once, again = (np.array([found[at][0] for at in both]) for found in (first, second))
    raw = np.array([first[at][1] for at in both])
    version = said[0].predictor_version
    shown = {"platform": said[0].platform, "space": space}
    return [
        {**shown, "method": f"predictor, version {version}", **_scores(predicted, once, raw), "inside": inside},
        {**shown, "method": "a second measurement", **_scores(again, once, raw), "inside": ""},
    ]


def _predicted(
    said: Sequence[LatencyAnswer], both: Sequence[int], first: Mapping[int, tuple[float, float]]
) -> tuple[Floats, str]:
    """float64[n] in ms, and how many intervals hold the measured value."""
    answers = [said[at] for at in both]
    values = [(one.low_ms or 0.0, one.normalised_ms or 0.0, one.high_ms or 0.0) for one in answers]
    held = sum(low <= first[at][0] <= high for at, (low, _, high) in zip(both, values, strict=True))
    return np.array([ms for _, ms, _ in values]), _share(held, len(both))


def _measured(
    client: Client, wanted: Sequence[ArchitectureRequest], platform: str, seed: str
) -> dict[int, tuple[float, float]]:
    """Measure anew: normalised and median ms by the architecture's number; grade D and failures are left out."""
    request = JobRequest(name=f"accuracy {seed}"[:200], workloads=tuple(wanted), platforms=(platform,), max_age_s=0)
    job = client.wait(client.submit(request).id)
    found = {}
    for item in client.items(job.id):
        summary = item.summary
        if summary is not None and summary.normalised_ms is not None and summary.grade != "D":
            found[item.item_no] = (summary.normalised_ms, summary.median_ms)
    return found


def _scores(predicted: Floats, measured: Floats, raw: Floats) -> Row:
    found, beside = score(predicted, measured), score(predicted, raw)
    hits = [round(share * found.count) for share in (found.within_5, found.within_10)]
    return {
        "architectures": found.count,
        "within 5 %": _share(hits[0], found.count),
        "within 10 %": _share(hits[1], found.count),
        "mean error": f"{found.mape:.2%}",
        "of raw medians, within 10 %": f"{beside.within_10:.1%}",
    }


def _share(hits: int, count: int) -> str:
    """`96.0% (86.3 to 99.5)`."""
    low, high = binomial_interval(hits, count)
    return f"{hits / count:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def _nothing(platform: str, space: str, why: str) -> Row:
    return {"platform": platform, "space": space, "method": why}


if __name__ == "__main__":
    main()
