"""How samplers of kernels compare: how far their draws lie from the search spaces, and what is invalid or repeated.

Each draws as many distinct configurations. Samplers learn from the architectures of one seed and are held against
those of another; LitePred's tables, where they lie beside the checkout, against their own second half.
"""

import argparse
import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.report import command_run, write_section
from benchfarm_predictor.training.divergence import Occupied, missed_share, occupancy_divergence
from benchfarm_predictor.training.sampler import (
    Adaptive,
    Direct,
    Independent,
    Source,
    Uniform,
    draw,
    duplicates_of,
    invalid_of,
)
from benchfarm_predictor.training.sampler_encoding import Encoding, valid_or_none
from benchfarm_predictor.training.sampler_vae import LARGE_KERNELS, train_sampler
from benchfarm_workloads.columns import Config
from benchfarm_workloads.kernel_frequencies import KernelFrequencies, frequencies_of_spaces, latency_heavy
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import spaces

PREDICTOR: Final = Path(__file__).resolve().parents[1] / "docs" / "predictor.md"
RECORDED: Final = Path(
    os.environ.get("BENCHFARM_MEASUREMENT_SETS", "")  # environment: where recorded sets lie
    or Path(__file__).resolve().parents[2] / "shared" / "data"
)
TABLES: Final = {"conv-bn-act": "vae_inputs_v3.csv", "dwconv-bn-act": "vae_inputs_v4_dwconv.csv"}
"""LitePred's configuration frequencies."""
Row = dict[str, object]


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", type=int, default=200, help="drawn of each space, for either seed")
    parser.add_argument("--draws", type=int, default=2000, help="configurations of each sampler, where a type has them")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--print", action="store_true", help="print the table instead of writing it")
    given = parser.parse_args()
    rows = [*of_spaces(given.architectures, given.draws, given.seed), *of_litepred(given.draws, given.seed)]
    if given.print:
        for row in rows:
            print(row)
        return
    write_section("Samplers of kernels", command_run(), rows, path=PREDICTOR)


def of_spaces(architectures: int, count: int, seed: str) -> Iterator[Row]:
    """The samplers on all of our search spaces."""
    names = [space.name for space in spaces()]
    train = frequencies_of_spaces(names, seed=f"{seed}/train", architectures=architectures)
    test = frequencies_of_spaces(names, seed=f"{seed}/test", architectures=architectures)
    for type_name in LARGE_KERNELS:
        yield from table_of("our spaces", latency_heavy(train[type_name]), latency_heavy(test[type_name]), count, seed)


def of_litepred(count: int, seed: str) -> Iterator[Row]:
    """The samplers on LitePred's tables; nothing where these do not lie beside the checkout."""
    for type_name, table in TABLES.items():
        path = RECORDED / "search_spaces" / "litepred" / table
        if path.is_file():
            train, test = (read_table(path, type_name, part) for part in ("train", "test"))
            yield from table_of(table, train, test, count, seed)


def table_of(place: str, train: KernelFrequencies, test: KernelFrequencies, count: int, seed: str) -> list[Row]:
    """One row for each sampler, and one for what it learns from."""
    space = Occupied.of(test.configs, test.shares)
    count = min(count, len(train.configs) // 2)
    own = Occupied.of(train.configs, train.shares)
    rows = [row_of(train.type, place, "train to test", len(train.configs), own, space)]
    for name, source in sources_of(train, seed).items():
        drawn = draw(source, seed=seed, count=count)
        configs = drawn.configs
        row = row_of(train.type, place, name, len(configs), Occupied.of(configs), space)
        proposals = len(configs) + drawn.invalid + drawn.repeated
        counts = {"duplicates": duplicates_of(configs), "invalid": invalid_of(train.type, configs)}
        rows.append(row | counts | {"not in train": new_share(configs, train), "proposals": proposals})
    return rows


def row_of(type_name: str, place: str, name: str, count: int, drawn: Occupied, space: Occupied) -> Row:
    """What is said of every sampler."""
    return {
        "kernel": type_name,
        "held against": place,
        "sampler": name,
        "configurations": count,
        "divergence": f"{occupancy_divergence(drawn, space):.4f}",
        "missed": f"{missed_share(space, drawn):.1%}",
        "astray": f"{missed_share(drawn, space):.1%}",
    }


def new_share(configs: Sequence[Config], train: KernelFrequencies) -> str:
    """How many of the draws do not occur in what the sampler learnt from."""
    return f"{(len(configs) - duplicates_of(configs, train.configs)) / len(configs):.0%}"


def sources_of(train: KernelFrequencies, seed: str) -> Mapping[str, Source]:
    """The samplers by name, all made of the same frequencies."""
    prior = Independent(train)
    # without latencies, every tenth draw of the prior stands for those that are predicted badly
    around = draw(prior, seed=f"{seed}/prior", count=max(20, len(train.configs) // 10)).configs
    return {
        "VAE": train_sampler(train, seed=seed),
        "drawn from the spaces": Direct(train),
        "nn-Meter, prior": prior,
        "nn-Meter, adaptive": Adaptive(train.type, around),
        "uniform": Uniform(Encoding.of(train)),
    }


def read_table(path: Path, type_name: str, part: str) -> KernelFrequencies:
    """One half of a table of LitePred's as configurations of ours, without activation; what we lack is left out."""
    found: dict[tuple[object, ...], tuple[Config, float]] = {}
    for row in csv.DictReader(path.read_text().splitlines()):
        if row["CAT"] != part:
            continue
        given = {"hw": row["HW"], "cin": row.get("CIN") or row["CHANNELS"], "cout": row.get("COUT")}
        given |= {"k": row["KERNEL_SIZE"], "s": row["STRIDES"]}
        known = {column.name for column in kernel_type(type_name).columns}
        sizes: Config = {name: int(float(text)) for name, text in given.items() if name in known and text is not None}
        config = valid_or_none(type_name, sizes)
        if config is None:
            continue
        before = found.get(tuple(config.values()), (config, 0.0))[1]
        found[tuple(config.values())] = (config, before + float(row["SCALED_FREQ"]))
    whole = sum(share for _, share in found.values())
    configs = tuple(config for config, _ in found.values())
    return KernelFrequencies(type_name, configs, tuple(share / whole for _, share in found.values()))


if __name__ == "__main__":
    main()
