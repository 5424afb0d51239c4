"""A trained sampler: the decoder of a variational autoencoder, evaluated with numpy, and its file (safetensors)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NoReturn

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import ConfigDict, Field

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Array
from benchfarm_predictor.training.sampler import SAMPLER_VERSION
from benchfarm_predictor.training.sampler_encoding import Encoding
from benchfarm_workloads.columns import Config

FILE_FORMAT: Final = 1
MAX_FILE_BYTES: Final = 8 * 2**20
MAX_WIDTH: Final = 4096
MAX_LAYERS: Final = 8
MAX_WEIGHT: Final = 1e6
"""So far from float64's bounds that no code leads there through all layers."""
HEADER: Final = "benchfarm-sampler"
"""The one name in a file's metadata: its value is a JSON document."""


class _Versions(Value):
    """What decides whether the rest can be read."""

    model_config = ConfigDict(extra="ignore", strict=True)
    format: int
    version: int


class _Document(Value):
    """The JSON of a file."""

    model_config = ConfigDict(strict=True)
    format: int
    version: int
    layers: int = Field(ge=1, le=MAX_LAYERS)
    encoding: dict[str, Any]
    frequencies_hash: str = Field(max_length=300)
    seed: str = Field(max_length=300)
    steps: int = Field(ge=0, le=2**53)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a sampler was trained on and how: the hash of its frequencies, the seed, steps of training."""

    frequencies_hash: str
    seed: str
    steps: int


@dataclass(frozen=True, eq=False)
class Decoder:
    """Draws codes from a normal distribution and decodes them. Satisfies ``sampler.Source``.

    layers: weights float64[out, in] and biases float64[out]; SiLU between them, the last one gives a vector of the
    encoding. noise: float64[width], the spread of sizes around what is decoded; 0 for places of choices.
    """

    encoding: Encoding
    layers: tuple[tuple[Floats, Floats], ...]
    noise: Floats
    origin: Origin

    @property
    def type(self) -> str:
        """The kernel type."""
        return self.encoding.type

    @property
    def code_width(self) -> int:
        """Length of a code."""
        return int(self.layers[0][0].shape[1])

    def propose(self, chance: np.random.Generator, count: int) -> Sequence[Config | None]:
        """Configurations of ``count`` codes; None where the catalogue takes none like it."""
        vectors = self.vectors(chance.standard_normal((count, self.code_width)))
        vectors = vectors + chance.standard_normal(vectors.shape) * self.noise
        return self.encoding.decode(vectors, chance)

    def vectors(self, codes: Floats) -> Floats:
        """float64[n, code_width] to float64[n, width]; sizes within 0 .. 1."""
        values = codes
        for number, (weights, biases) in enumerate(self.layers):
            values = values @ weights.T + biases
            if number < len(self.layers) - 1:
                values = values / (1.0 + np.exp(-np.clip(values, -50.0, 50.0)))
        is_size = self.encoding.is_size
        squashed = 1.0 / (1.0 + np.exp(-np.clip(values, -50.0, 50.0)))
        return np.where(is_size, squashed, values)


def write_sampler(decoder: Decoder) -> bytes:
    """The file; the same bytes for the same sampler."""
    arrays = {"noise": decoder.noise.astype(np.float32)}
    for number, (weights, biases) in enumerate(decoder.layers):
        arrays[f"weights_{number}"] = weights.astype(np.float32)
        arrays[f"biases_{number}"] = biases.astype(np.float32)
    header = {
        "format": FILE_FORMAT,
        "version": SAMPLER_VERSION,
        "layers": len(decoder.layers),
        "encoding": decoder.encoding.to_json(),
        "frequencies_hash": decoder.origin.frequencies_hash,
        "seed": decoder.origin.seed,
        "steps": decoder.origin.steps,
    }
    return safetensors.numpy.save(arrays, {HEADER: json.dumps(header, sort_keys=True)})


def read_sampler(data: bytes, sha256: str | None = None) -> Decoder:
    """The sampler of a file.

    Raises:
        InvalidRequest: ``predictor_file_damaged`` when the hash differs or anything in the file is malformed;
            ``predictor_file_foreign`` when its format's or the sampler's version is another.
    """
    if len(data) > MAX_FILE_BYTES or (sha256 is not None and hashlib.sha256(data).hexdigest() != sha256):
        _damaged("its hash or its size is not that of the sampler's file")
    try:
        header, arrays = _opened(data)
        found = _Versions.model_validate(header)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _damaged("it is no file of a sampler")
    versions = found.format, found.version
    if versions != (FILE_FORMAT, SAMPLER_VERSION):
        detail = f"the sampler's file has format and version {versions}; {(FILE_FORMAT, SAMPLER_VERSION)} are read here"
        raise InvalidRequest(detail, code="predictor_file_foreign", field="file")
    try:
        return _decoder(_Document.model_validate(header), arrays)
    except (ValueError, KeyError, TypeError, InvalidRequest) as error:
        _damaged(str(error)[:200])


def _opened(data: bytes) -> tuple[Any, dict[str, Array]]:
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    return json.loads(head["__metadata__"][HEADER]), dict(safetensors.numpy.load(data))


def _decoder(said: _Document, arrays: Mapping[str, Array]) -> Decoder:
    """Raises ValueError, KeyError, TypeError, InvalidRequest for what does not fit together."""
    encoding = Encoding.from_json(said.encoding)
    if len(arrays) != 2 * said.layers + 1:
        raise ValueError("the number of layers is wrong")
    wide = {name: _checked(array) for name, array in arrays.items()}
    layers = tuple((wide[f"weights_{number}"], wide[f"biases_{number}"]) for number in range(said.layers))
    noise = wide["noise"]
    _check_shapes([*layers, (np.zeros((0, encoding.width)), noise)])
    if noise.shape != (encoding.width,) or (noise < 0).any():
        raise ValueError("the noise does not fit the encoding")
    return Decoder(encoding, layers, noise, Origin(said.frequencies_hash, said.seed, said.steps))


def _checked(array: Array) -> Floats:
    """float64 of an array as it is written."""
    if array.dtype != np.float32 or not (np.abs(array) <= MAX_WEIGHT).all():
        raise ValueError("an array holds something else than moderate numbers in 32 bits")
    return array.astype(np.float64)


def _check_shapes(layers: Sequence[tuple[Floats, Floats]]) -> None:
    """Each layer takes what the one before gives; the last entry's weights only say what must come out."""
    for (weights, biases), (following, _) in pairwise(layers):
        fits = weights.ndim == 2 and biases.shape == weights.shape[:1] and max(weights.shape) <= MAX_WIDTH
        if not fits or following.ndim != 2 or following.shape[1] != weights.shape[0]:
            raise ValueError("a layer's shape is wrong")


def _damaged(reason: str) -> NoReturn:
    raise InvalidRequest(f"the sampler's file is damaged: {reason}", code="predictor_file_damaged", field="file")
