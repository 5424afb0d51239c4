"""LitePred's occupancy divergence by its own formula, and the share that draws miss."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from benchfarm_predictor.training.divergence import Occupied, missed_share, occupancy_divergence

RECORDED = Path(
    os.environ.get("BENCHFARM_MEASUREMENT_SETS", "")  # environment: where recorded sets lie
    or Path(__file__).parents[4] / "shared" / "data"
)
SPACES = RECORDED / "search_spaces" / "litepred"


def of_csv(path: Path, part: str) -> Occupied:
    """One part of a table of LitePred's, weighted as it says."""

    def value(row: Mapping[str, str], *names: str) -> int:
        return int(float(next(row[name] for name in names if name in row)))

    rows = [row for row in csv.DictReader(path.read_text().splitlines()) if row["CAT"] == part]
    configs = [
        {
            "hw": value(row, "HW"),
            "cin": value(row, "CIN", "CHANNELS"),
            "k": value(row, "KERNEL_SIZE"),
            "s": value(row, "STRIDES"),
        }
        for row in rows
    ]
    return Occupied.of([dict(config) for config in configs], [float(row["SCALED_FREQ"]) for row in rows])


@pytest.mark.parametrize(
    ("table", "forth", "back"),
    [
        # The numbers that LitePred's notebook prints are of this table, which is not among the recorded ones.
        ("vae_inputs_patch_lut.csv", 0.0372551, 0.0249837),
        ("vae_inputs_v3.csv", 0.0152286, -0.0020587),
        ("vae_inputs_v4_dwconv.csv", 0.0043319, 0.0059896),
        ("vae_inputs_pool_v1.csv", 0.0071234, 0.0283282),
    ],
)
def test_the_published_formula_gives_the_published_numbers(table: str, forth: float, back: float) -> None:
    if not (SPACES / table).is_file():
        pytest.skip(f"no recorded table {table} at {SPACES}")
    train, test = of_csv(SPACES / table, "train"), of_csv(SPACES / table, "test")
    assert occupancy_divergence(train, test) == pytest.approx(forth, abs=2e-6)
    assert occupancy_divergence(test, train) == pytest.approx(back, abs=2e-6)


def placed(*rows: tuple[int, int, int, int]) -> Occupied:
    return Occupied.of([dict(zip(("hw", "cin", "k", "s"), row, strict=True)) for row in rows])


def test_by_hand_on_one_configuration() -> None:
    one = placed((7, 7, 3, 1))
    other = placed((7, 7, 5, 1))
    # log2(8) * 5 = 15 and log2(8) = 3: of boxes 11 wide, every 5 cells, two times one hold cell (15, 3) of 11 x 11 ...
    boxes = sum(abs(15 - row) <= 5 and abs(3 - column) <= 5 for row in range(0, 49, 5) for column in range(0, 49, 5))
    height = (5 / 11) ** 2 + 1e-10
    assert occupancy_divergence(one, one) == 0
    expected = boxes * height * np.log(height / 1e-10)
    assert occupancy_divergence(one, other) == pytest.approx(expected, rel=1e-6)


def test_it_grows_with_distance_and_not_with_order() -> None:
    space = placed((56, 24, 3, 1), (28, 40, 3, 1), (14, 80, 5, 1), (7, 160, 5, 2))
    near = placed((54, 32, 3, 1), (30, 40, 3, 1), (15, 88, 5, 1), (8, 160, 5, 2))
    far = placed((7, 24, 7, 1), (7, 40, 7, 1), (112, 800, 5, 1), (112, 160, 3, 2))
    swapped = placed((7, 160, 5, 2), (14, 80, 5, 1), (28, 40, 3, 1), (56, 24, 3, 1))
    assert occupancy_divergence(swapped, space) == pytest.approx(0)
    assert occupancy_divergence(near, space) < occupancy_divergence(far, space)


def test_the_missed_share_is_the_weight_without_a_neighbour() -> None:
    configs = [{"hw": 56, "cin": 24, "k": 3, "s": 1}, {"hw": 7, "cin": 320, "k": 5, "s": 2}]
    space = Occupied.of([dict(one) for one in configs], [3.0, 1.0])
    assert missed_share(space, space) == 0
    assert missed_share(space, placed((52, 32, 3, 1))) == 0.25
    assert missed_share(space, placed((56, 24, 3, 2), (7, 320, 5, 2))) == 0.75, "a stride of its own is elsewhere"


def test_types_without_windows_have_their_place_too() -> None:
    tokens = Occupied.of([{"seq": 197, "cin": 192, "cout": 576, "act": "none", "batch": 1}])
    assert (tokens.size[0], tokens.channels[0], tokens.window[0], tokens.stride[0]) == (197, 192, 1, 1)
    features = Occupied.of([{"cin": 1280, "cout": 1000, "act": "none", "batch": 1}])
    assert (features.size[0], features.channels[0]) == (1, 1280)
