"""How near the active predictors of platforms come to fresh architectures of search spaces, on a running farm.

Each pair of a platform and a space is one run of `benchfarm evaluate accuracy`; this program only puts their figures
into one table, beside the noise floor. Each share with its 95 % interval (Clopper and Pearson).
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Final

from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm.accuracy import Accuracy, Nearness, measure_accuracy
from benchfarm.commands.evaluation import left_out_text

PREDICTOR: Final = Path(__file__).resolve().parents[1] / "docs" / "predictor.md"
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
        cells = product(given.platform, given.space)
        found = [measure_accuracy(client, *cell, archs=given.archs, seed=given.seed) for cell in cells]
    rows = [row for one in found for row in rows_of(one)]
    if given.print:
        for row in rows:
            print(row)
        return
    write_section("Accuracy of active predictors", command_run(), rows, path=PREDICTOR)


def rows_of(found: Accuracy) -> list[Row]:
    """The predictor's row and that of the second measurement; one that says why where there are no figures."""
    shown: Row = {"platform": found.platform, "space": found.space}
    left_out: Row = {"left out": left_out_text(found)}
    if found.figures is None:
        return [{**shown, "method": "none: too few could be compared", **left_out}]
    inside = found.figures.inside
    predictor: Row = {**_row(found.figures.predictor), "inside": "" if inside is None else inside.text, **left_out}
    return [
        {**shown, "method": f"predictor, version {found.predictor_version}", **predictor},
        {**shown, "method": "a second measurement", **_row(found.figures.floor)},
        {**shown, "method": "the predictor, to raw medians", **_row(found.figures.of_medians)},
    ]


def _row(found: Nearness) -> Row:
    return {
        "architectures": found.within_5.count,
        "within 5 %": found.within_5.text,
        "within 10 %": found.within_10.text,
        "mean error": f"{found.mape:.2%}",
    }


if __name__ == "__main__":
    main()
