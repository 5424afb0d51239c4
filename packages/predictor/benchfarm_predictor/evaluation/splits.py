"""Which rows are measured and which are predicted: by their configurations alone, whatever was measured."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

import numpy as np

from benchfarm_predictor.kernels import Ints, Kernels
from benchfarm_predictor.training.measured import config_keys

TEST_SHARE: Final = 0.3
MAX_TEST_ROWS: Final = 1500
"""Enough for a standard error of 1.3 points."""
HASH_BYTES: Final = 8


def seed_of(*parts: object) -> int:
    """A number below 2^32 for whatever chance needs: the same for the same parts."""
    return int.from_bytes(sha256("|".join(map(str, parts)).encode()).digest()[:4], "big")


def ranks(kernels: Kernels, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """float64[n] in [0, 1): a number of each configuration, the same in every set that has it."""
    prefix = f"{seed}|{'|'.join(sorted(kernels.columns))}|".encode()
    hashes = (sha256(prefix + key).digest()[:HASH_BYTES] for key in config_keys(kernels))
    return np.array([int.from_bytes(each, "big") / 2 ** (8 * HASH_BYTES) for each in hashes])


def split(kernels: Kernels, seed: int) -> tuple[Ints, Ints]:
    """Row numbers to draw samples from, and rows to be judged by.

    What is kept from training is every configuration of the lowest ranks, in the target as in its donors: no donor ever
    saw a configuration that it is judged by. Of many such rows some are enough to judge by.
    """
    rank = ranks(kernels, seed)
    test = np.flatnonzero(rank < TEST_SHARE)
    judged = np.sort(test[np.argsort(rank[test], kind="stable")[:MAX_TEST_ROWS]])
    return np.flatnonzero(rank >= TEST_SHARE), judged


def draws(count: int, sizes: tuple[int, ...], seed: int) -> Iterator[tuple[int, Ints]]:
    """For each size that many of ``count`` rows; the smaller draws are parts of the larger ones."""
    order = np.random.default_rng(seed).permutation(count)
    for size in sizes:
        yield size, order[:size]
