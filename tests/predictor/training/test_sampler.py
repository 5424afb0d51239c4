"""Samplers without a network: distinct, valid, new, seeded; sweeps around the steps of a staircase."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.training.divergence import Occupied, missed_share, occupancy_divergence
from benchfarm_predictor.training.sampler import (
    Adaptive,
    Direct,
    Independent,
    Source,
    Uniform,
    badly_predicted,
    draw,
    duplicates_of,
    generator,
    invalid_of,
)
from benchfarm_predictor.training.sampler_encoding import EncodedColumn, Encoding
from benchfarm_predictor.training.sampler_sweeps import choices, consecutive, stairs
from benchfarm_workloads.columns import Config
from benchfarm_workloads.kernel_frequencies import KernelFrequencies, frequencies_of_spaces, latency_heavy
from benchfarm_workloads.kernels import kernel_type

SPACES = ("ofa_mobilenet_v3", "ofa_resnet")
CONV: Config = {"hw": 28, "cin": 40, "cout": 80, "k": 3, "s": 1, "act": "relu", "batch": 1}


@pytest.fixture(scope="module")
def spaces() -> dict[str, KernelFrequencies]:
    return frequencies_of_spaces(SPACES, seed="test", architectures=10)


@pytest.fixture(scope="module")
def conv(spaces: dict[str, KernelFrequencies]) -> KernelFrequencies:
    return spaces["conv-bn-act"]


def source(name: str, conv: KernelFrequencies) -> Source:
    sources: dict[str, Source] = {
        "direct": Direct(conv),
        "uniform": Uniform(Encoding.of(conv)),
        "independent": Independent(conv),
        "adaptive": Adaptive(conv.type, conv.configs[:20]),
    }
    return sources[name]


@pytest.mark.parametrize("name", ["direct", "uniform", "independent", "adaptive"])
def test_draws_are_distinct_valid_new_and_seeded(name: str, conv: KernelFrequencies) -> None:
    known = conv.configs[::2]
    drawn = draw(source(name, conv), seed="7", count=60, known=known)
    assert len(drawn.configs) == 60
    assert duplicates_of(drawn.configs, known) == 0
    assert invalid_of("conv-bn-act", drawn.configs) == 0
    assert all(kernel_type("conv-bn-act").validate(config) == config for config in drawn.configs)
    assert draw(source(name, conv), seed="7", count=60, known=known) == drawn
    assert draw(source(name, conv), seed="8", count=60, known=known) != drawn


def test_what_a_source_cannot_give_is_refused(conv: KernelFrequencies) -> None:
    with pytest.raises(InvalidRequest, match="only"):
        draw(Direct(conv), seed="1", count=len(conv.configs) + 1)
    with pytest.raises(InvalidRequest, match="only 0"):
        draw(Direct(conv), seed="1", count=1, known=conv.configs)
    with pytest.raises(InvalidRequest, match="only 0"):
        draw(Adaptive("conv-bn-act", ()), seed="1", count=1)
    with pytest.raises(InvalidRequest):
        draw(Direct(conv), seed="1", count=-1)
    assert draw(Direct(conv), seed="1", count=0).configs == ()


def test_what_is_left_out_is_counted(conv: KernelFrequencies) -> None:
    class Odd:
        type = "conv-bn-act"

        def propose(self, chance: np.random.Generator, count: int) -> list[Config | None]:
            return [None, dict(conv.configs[0]), dict(conv.configs[1]), dict(conv.configs[1]), dict(conv.configs[2])]

    drawn = draw(Odd(), seed="1", count=2, known=[conv.configs[0]])
    assert drawn.configs == conv.configs[1:3]
    assert (drawn.invalid, drawn.repeated, drawn.known) == (1, 1, 1)


def test_what_is_known_may_leave_defaults_out_and_stand_in_any_order(conv: KernelFrequencies) -> None:
    """As clients name kernels: only what the catalogue needs."""
    needed = {column.name for column in kernel_type("conv-bn-act").columns if column.default is None}
    defaults = {column.name: column.default for column in kernel_type("conv-bn-act").columns}
    short = [
        {name: value for name, value in reversed(config.items()) if name in needed or value != defaults[name]}
        for config in conv.configs
    ]
    assert any(len(config) < len(defaults) for config in short)
    with pytest.raises(InvalidRequest, match="only 0"):
        draw(Direct(conv), seed="1", count=1, known=short)
    unknown: list[dict[str, int | str]] = [{"hw": 0}, {"cin": "many"}, {}]
    assert draw(Direct(conv), seed="1", count=5, known=unknown) == draw(Direct(conv), seed="1", count=5)


def test_drawing_columns_by_themselves_leaves_the_distribution(conv: KernelFrequencies) -> None:
    space = Occupied.of(conv.configs, conv.shares)
    count = len(conv.configs) // 2
    by_name = {
        name: Occupied.of(draw(source(name, conv), seed="1", count=count).configs)
        for name in ("direct", "uniform", "independent")
    }
    far = {name: occupancy_divergence(drawn, space) for name, drawn in by_name.items()}
    assert far["direct"] < far["independent"] < far["uniform"]
    missed = {name: missed_share(space, drawn) for name, drawn in by_name.items()}
    assert missed["direct"] < missed["uniform"]


def test_around_what_is_predicted_badly_channels_alone_are_drawn_anew() -> None:
    drawn = draw(Adaptive("conv-bn-act", (CONV,)), seed="1", count=200).configs
    assert {(c["hw"], c["k"], c["s"], c["act"]) for c in drawn} == {(28, 3, 1, "relu")}
    assert len({c["cin"] for c in drawn}) > 20
    assert {int(c["cin"]) for c in drawn} <= set(range(20, 50))
    assert {int(c["cout"]) for c in drawn} <= set(range(40, 98))


def test_the_worst_predicted_come_first() -> None:
    configs = [{**CONV, "cin": cin} for cin in (8, 16, 24, 32)]
    taken, told = np.array([1.0, 1.0, 1.0, 1.0]), np.array([1.05, 1.5, 0.2, 0.95])
    assert badly_predicted(configs, taken, told) == (configs[2], configs[1])


def test_an_encoding_gives_every_configuration_back(spaces: dict[str, KernelFrequencies]) -> None:
    for frequencies in spaces.values():
        encoding = Encoding.of(frequencies)
        vectors = encoding.encode(frequencies.configs)
        assert vectors.shape == (len(frequencies.configs), encoding.width)
        assert ((vectors >= 0) & (vectors <= 1)).all()
        sure = np.where(encoding.is_size, vectors, 100 * vectors)
        assert encoding.decode(sure, generator("any")) == list(frequencies.configs), frequencies.type
        assert Encoding.from_json(encoding.to_json()) == encoding


def test_decoded_sizes_lie_on_the_grid_or_occur(conv: KernelFrequencies) -> None:
    encoding = Encoding.of(conv)
    vectors = np.zeros((500, encoding.width))
    vectors[:, encoding.is_size] = generator("v").uniform(-0.5, 1.5, (500, int(encoding.is_size.sum())))
    for name in ("cin", "cout"):
        occurring = {config[name] for config in conv.configs}
        decoded = {int(one[name]) for one in encoding.decode(vectors, generator("d")) if one is not None}
        assert all(value % 8 == 0 or value in occurring for value in decoded)
        assert (min(decoded), max(decoded)) == (min(occurring), max(occurring)), "nothing beyond the range"


@pytest.mark.parametrize(
    "change",
    [
        {"low": 0},
        {"low": 9},
        {"high": 10**400},
        {"step": 0},
        {"step": 2**40},
        {"seen": [4]},
        {"seen": [8, 4]},
        {"seen": [4, 2**40]},
        {"name": "cout"},
        {"extra": 1},
    ],
)
def test_an_encoding_that_makes_no_sense_is_refused(conv: KernelFrequencies, change: dict[str, object]) -> None:
    document = Encoding.of(conv).to_json()
    document["columns"][1] = {"name": "cin", "low": 4, "high": 8, "step": 1, "seen": [4, 8], **change}
    with pytest.raises((ValueError, KeyError, TypeError)):
        Encoding.from_json(document)


def test_columns_with_few_values_are_choices(conv: KernelFrequencies) -> None:
    columns = {column.name: column for column in Encoding.of(conv).columns}
    assert columns["k"].values == (1, 3)
    assert columns["batch"] == EncodedColumn(name="batch", values=(1,))
    assert columns["batch"].width == 0
    assert (columns["cin"].values, columns["cin"].step, columns["hw"].step) == ((), 8, 1)


def test_stairs_stand_on_both_sides_of_every_edge() -> None:
    swept = stairs("conv-bn-act", CONV, "cin")
    values = [int(config["cin"]) for config in swept]
    edges = (40, 44, 48, 32, 64)
    assert values == sorted({edge + off for edge in edges for off in (-1, 0, 1)})
    assert {tuple(config[name] for name in config if name != "cin") for config in swept} == {(28, 80, 3, 1, "relu", 1)}
    assert min(int(config["cout"]) for config in stairs("conv-bn-act", {**CONV, "cout": 3}, "cout")) == 1


def test_values_in_a_row_and_all_choices() -> None:
    assert [config["cout"] for config in consecutive("conv-bn-act", CONV, "cout")] == list(range(80, 96))
    assert [config["k"] for config in choices("conv-bn-act", CONV, "k")] == [1, 3, 5, 7, 9, 11]
    assert [config["k"] for config in choices("conv-bn-act", {**CONV, "hw": 2}, "k")] == [1, 3], "only what is valid"
    for column in ("k", "act", "none"):
        with pytest.raises(InvalidRequest):
            stairs("conv-bn-act", CONV, column)
    with pytest.raises(InvalidRequest):
        choices("conv-bn-act", CONV, "cin")


def test_heavy_shares_move_the_draws(conv: KernelFrequencies) -> None:
    rule = kernel_type("conv-bn-act").cost_rule

    def mean_flops(frequencies: KernelFrequencies) -> float:
        proposed = Direct(frequencies).propose(generator("h"), 2000)
        return float(np.mean([rule(config).flops for config in proposed if config is not None]))

    assert mean_flops(latency_heavy(conv)) > 1.2 * mean_flops(conv)
