"""Logarithms and exponentials from sums and products alone: the same bits on every processor, alone or among others.

IEEE 754 fixes what sums, products and quotients come to, and nothing else: what numpy makes of an exponential differs
from one processor to the next. What is said of whole models is computed with these, so that a table says on a device
what the farm says. Both are within two units in the last place.
"""

import math
from typing import Final

import numpy as np

from benchfarm_predictor.kernels import Floats

Column = Floats | float
"""float64[n], or one number that stands for all of them."""

_LARGEST: Final = 700.0
_LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
"""ln 2 to 32 bits, so that products with exponents are exact; ``_LN2_LOW`` is the rest."""
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_EXP_TERMS: Final = tuple(1 / math.factorial(power) for power in range(13, -1, -1))
_LOG_TERMS: Final = tuple(1 / (2 * power + 1) for power in range(10, -1, -1))
_MANTISSA_BITS: Final = 52
_BIAS: Final = 1023
_ROOT_HALF_BITS: Final = int(np.float64(math.sqrt(0.5)).view(np.int64))


def exp(x: Column) -> Floats:
    """e^x, for x within +-700; the same shape."""
    given = np.minimum(np.maximum(np.asarray(x, dtype=np.float64), -_LARGEST), _LARGEST)
    power = np.rint(given * (1 / math.log(2)))
    rest = (given - power * _LN2_HIGH) - power * _LN2_LOW
    found = _series(_EXP_TERMS, rest)
    with np.errstate(invalid="ignore"):  # what is no number stays none
        found *= ((power.astype(np.int64) + _BIAS) << _MANTISSA_BITS).view(np.float64)
    return found


def log(x: Column) -> Floats:
    """ln x, for normal numbers above 0; the same shape."""
    exponent, rest = _parted(x)
    found: Floats = (exponent * _LN2_LOW + rest) + exponent * _LN2_HIGH
    return found


def log2(x: Column) -> Floats:
    """The logarithm to base 2, exact for powers of 2; as ``log``."""
    exponent, rest = _parted(x)
    found: Floats = exponent + rest * (1 / math.log(2))
    return found


def _parted(x: Column) -> tuple[Floats, Floats]:
    """The exponent to base 2, and the natural logarithm of what remains, which is from the root of a half to twice
    that."""
    bits = np.asarray(x, dtype=np.float64).view(np.int64)
    power = (bits - _ROOT_HALF_BITS) >> _MANTISSA_BITS
    beyond = (bits - (power << _MANTISSA_BITS)).view(np.float64) - 1.0
    ratio = beyond / (beyond + 2.0)
    return power.astype(np.float64), 2.0 * ratio * _series(_LOG_TERMS, ratio * ratio)


def _series(terms: tuple[float, ...], x: Floats) -> Floats:
    """Horner's rule; the coefficient of the highest power first."""
    found = np.full_like(x, terms[0])
    for term in terms[1:]:
        found *= x
        found += term
    return np.asarray(found)
