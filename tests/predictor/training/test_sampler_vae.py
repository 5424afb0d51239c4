"""The trained sampler: nearer to the spaces than columns drawn by themselves, seeded, and the same from its file."""

import hashlib
import json
import struct
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("safetensors", reason="safetensors is not installed")

import safetensors.numpy

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.training.divergence import Occupied, missed_share, occupancy_divergence
from benchfarm_predictor.training.sampler import Independent, draw, duplicates_of, generator, invalid_of
from benchfarm_predictor.training.sampler_decoder import Decoder, Origin, read_sampler, write_sampler
from benchfarm_predictor.training.sampler_encoding import Encoding
from benchfarm_workloads.kernel_frequencies import KernelFrequencies, frequencies_of_spaces, latency_heavy

SPACES = ("ofa_mobilenet_v3", "proxylessnas")


@pytest.fixture(scope="module")
def frequencies() -> KernelFrequencies:
    return latency_heavy(frequencies_of_spaces(SPACES, seed="train", architectures=20)["dwconv-bn-act"])


@pytest.fixture(scope="module")
def untrained(frequencies: KernelFrequencies) -> Decoder:
    """A sampler with weights of chance: what files are tried with where torch is missing."""
    encoding = Encoding.of(frequencies)
    chance = generator("weights")
    widths = (4, 16, encoding.width)
    layers = tuple(
        (chance.normal(size=(out, into)).astype(np.float32).astype(float), np.zeros(out))
        for into, out in pairwise(widths)
    )
    noise = np.where(encoding.is_size, np.float32(0.01), 0.0).astype(np.float64)
    return Decoder(encoding, layers, noise, Origin("hash", "seed", 3))


def test_a_file_gives_the_same_draws(untrained: Decoder) -> None:
    data = write_sampler(untrained)
    again = read_sampler(data, hashlib.sha256(data).hexdigest())
    assert (again.encoding, again.origin, again.code_width) == (untrained.encoding, untrained.origin, 4)
    assert draw(again, seed="1", count=100) == draw(untrained, seed="1", count=100)
    assert write_sampler(again) == data


def repacked(data: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """The file with another document in its header."""
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + size])
    document = json.loads(head["__metadata__"]["benchfarm-sampler"])
    change(document)
    head["__metadata__"]["benchfarm-sampler"] = json.dumps(document)
    packed = json.dumps(head).encode()
    return struct.pack("<Q", len(packed)) + packed + data[8 + size :]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d.update(format=2), "predictor_file_foreign"),
        (lambda d: d.update(version=99), "predictor_file_foreign"),
        (lambda d: d.pop("version"), "predictor_file_damaged"),
        (lambda d: d.update(layers=1), "predictor_file_damaged"),
        (lambda d: d.update(layers="two"), "predictor_file_damaged"),
        (lambda d: d.update(layers=2.0), "predictor_file_damaged"),
        (lambda d: d.update(layers="2"), "predictor_file_damaged"),
        (lambda d: d.update(format=True), "predictor_file_damaged"),
        (lambda d: d.update(steps=float("inf")), "predictor_file_damaged"),
        (lambda d: d.update(steps=-1), "predictor_file_damaged"),
        (lambda d: d.update(seed={"a": 1}), "predictor_file_damaged"),
        (lambda d: d.update(frequencies_hash=None), "predictor_file_damaged"),
        (lambda d: d.update(more=1), "predictor_file_damaged"),
        (lambda d: d["encoding"]["columns"][1].update(high=10**400), "predictor_file_damaged"),
        (lambda d: d["encoding"].update(type=["fc"]), "predictor_file_damaged"),
        (lambda d: d["encoding"].update(type="fc"), "predictor_file_damaged"),
        (lambda d: d["encoding"].update(type="none"), "predictor_file_damaged"),
        (lambda d: d["encoding"]["columns"].pop(), "predictor_file_damaged"),
        (lambda d: d.update(encoding=[]), "predictor_file_damaged"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(
    untrained: Decoder, change: Callable[[dict[str, object]], object], code: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_sampler(repacked(write_sampler(untrained), change))
    assert error.value.code == code


def strange(data: bytes) -> bytes:
    """A header of one array in a type that numpy has not."""
    size = struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    array = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({"__metadata__": metadata, "noise": array}).encode()


def wider(data: bytes) -> bytes:
    """The same file in numbers of 64 bits."""
    size = struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    arrays = {name: array.astype(np.float64) for name, array in safetensors.numpy.load(data).items()}
    return bytes(safetensors.numpy.save(arrays, metadata))


@settings(max_examples=100)
@given(st.data())
def test_any_changed_byte_of_a_header_is_refused_or_draws(untrained: Decoder, chosen: st.DataObject) -> None:
    data = write_sampler(untrained)
    at = chosen.draw(st.integers(0, 7 + struct.unpack("<Q", data[:8])[0]))
    changed = data[:at] + bytes([chosen.draw(st.integers(0, 255))]) + data[at + 1 :]
    assert outcome(changed) in ("drawn", "predictor_file_damaged", "predictor_file_foreign", "nothing to draw")


def outcome(data: bytes) -> str:
    try:
        draw(read_sampler(data), seed="1", count=1)
    except InvalidRequest as refused:
        return "nothing to draw" if refused.field == "count" else refused.code
    return "drawn"


def test_a_damaged_file_is_refused(untrained: Decoder) -> None:
    data = write_sampler(untrained)
    other = Decoder(untrained.encoding, untrained.layers[:1], untrained.noise, untrained.origin)
    (first, biases), *others = untrained.layers
    nan, huge = (
        Decoder(untrained.encoding, ((first * factor, biases), *others), untrained.noise, untrained.origin)
        for factor in (np.nan, 1e30)
    )
    made = [write_sampler(each) for each in (other, nan, huge)]
    heads = [struct.pack("<Q", len(head)) + head for head in (b"[]", b"1", b'{"__metadata__": []}', strange(data))]
    for damaged in (b"", b"{}", data[:200], data[:-4], b"\xff" * 64, wider(data), *made, *heads):
        with pytest.raises(InvalidRequest) as error:
            read_sampler(damaged)
        assert error.value.code == "predictor_file_damaged"
    with pytest.raises(InvalidRequest, match="hash"):
        read_sampler(data, "0" * 64)


@pytest.fixture(scope="module")
def trained(frequencies: KernelFrequencies) -> Decoder:
    pytest.importorskip("torch", reason="torch is not installed")
    from benchfarm_predictor.training.sampler_vae import Training, train_sampler

    return train_sampler(frequencies, seed="1", training=Training(steps=1200))


def test_its_draws_are_new_valid_and_nearer_than_columns_by_themselves(
    trained: Decoder, frequencies: KernelFrequencies
) -> None:
    space = Occupied.of(frequencies.configs, frequencies.shares)
    known = frequencies.configs
    drawn = draw(trained, seed="1", count=300, known=known)
    assert (duplicates_of(drawn.configs, known), invalid_of("dwconv-bn-act", drawn.configs)) == (0, 0)
    ours = Occupied.of(draw(trained, seed="1", count=300).configs)
    apart = Occupied.of(draw(Independent(frequencies), seed="1", count=300).configs)
    assert occupancy_divergence(ours, space) < 0.5 * occupancy_divergence(apart, space)
    assert missed_share(space, ours) < 0.1


def test_a_trained_sampler_is_the_same_for_the_same_seed_and_from_its_file(
    trained: Decoder, frequencies: KernelFrequencies
) -> None:
    from benchfarm_predictor.training.sampler_vae import Training, train_sampler

    short = Training(steps=20)
    ones, same, other = (train_sampler(frequencies, seed=seed, training=short) for seed in ("1", "1", "2"))
    assert write_sampler(ones) == write_sampler(same) != write_sampler(other)
    read = read_sampler(write_sampler(trained))
    assert draw(read, seed="5", count=200) == draw(trained, seed="5", count=200)
    assert read.origin == Origin(frequencies.content_hash, "1", 1200)


def test_too_few_configurations_teach_nothing(trained: Decoder) -> None:
    from benchfarm_predictor.training.sampler_vae import train_sampler

    few = KernelFrequencies("fc", ({"cin": 8, "cout": 8, "act": "none", "batch": 1},), (1.0,))
    with pytest.raises(InvalidRequest) as error:
        train_sampler(few, seed="1")
    assert error.value.code == "training_rows_invalid"
