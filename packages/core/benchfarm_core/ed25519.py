"""Signatures by Ed25519 (RFC 8032): what a farm makes is known as its own where no farm can be asked.

Sums of points are in the RFC's extended coordinates (Hisil and others 2008). To sign or to look at a signature takes a
few milliseconds. How long it takes to sign may follow from the key, so whoever can ask for signatures must not be able
to time them on the machine itself.
"""

import hashlib
from typing import Final

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT: Final = pow(2, (_P - 1) // 4, _P)
"""Of -1."""
_SIGN_BIT: Final = 255

_Point = tuple[int, int, int, int]
"""X, Y, Z, T with x = X/Z, y = Y/Z, x y = T/Z."""


def public_key(secret: bytes) -> bytes:
    """The key that others know of a secret of ``KEY_BYTES`` random bytes."""
    scalar, _ = _expanded(secret)
    return _encoded(_times(scalar, _BASE))


def sign(secret: bytes, message: bytes) -> bytes:
    """The same signature for the same message: nothing about it is random."""
    scalar, prefix = _expanded(secret)
    public = _encoded(_times(scalar, _BASE))
    once = _number(prefix + message) % _ORDER
    commitment = _encoded(_times(once, _BASE))
    challenge = _number(commitment + public + message) % _ORDER
    return commitment + ((once + challenge * scalar) % _ORDER).to_bytes(KEY_BYTES, "little")


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is that of the secret behind a public key over this very message."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    key, commitment = _decoded(public), _decoded(signature[:KEY_BYTES])
    answer = int.from_bytes(signature[KEY_BYTES:], "little")
    if key is None or commitment is None or answer >= _ORDER:
        return False
    challenge = _number(signature[:KEY_BYTES] + public + message) % _ORDER
    return _are_equal(_times(answer, _BASE), _sum(commitment, _times(challenge, key)))


def _expanded(secret: bytes) -> tuple[int, bytes]:
    """The scalar and what makes signatures differ."""
    if len(secret) != KEY_BYTES:
        raise ValueError(f"a secret has {KEY_BYTES} bytes")
    digest = hashlib.sha512(secret).digest()
    scalar = int.from_bytes(digest[:KEY_BYTES], "little")
    return scalar & ((1 << 254) - 8) | (1 << 254), digest[KEY_BYTES:]


def _number(message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(message).digest(), "little")


def _sum(one: _Point, other: _Point) -> _Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    found: _Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            found = _sum(found, point)
        point = _sum(point, point)
        scalar >>= 1
    return found


def _are_equal(one: _Point, other: _Point) -> bool:
    across = (one[0] * other[2] - other[0] * one[2]) % _P
    return across == 0 and (one[1] * other[2] - other[1] * one[2]) % _P == 0


def _encoded(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << _SIGN_BIT).to_bytes(KEY_BYTES, "little")


def _decoded(data: bytes) -> _Point | None:
    """None for what is no point."""
    number = int.from_bytes(data, "little")
    y, is_odd = number & ((1 << _SIGN_BIT) - 1), number >> _SIGN_BIT
    x = _x_of(y, is_odd) if y < _P else None
    return None if x is None else (x, y, 1, x * y % _P)


def _x_of(y: int, is_odd: int) -> int | None:
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and is_odd):
        return None
    return x if x & 1 == is_odd else _P - x


def _base() -> _Point:
    y = 4 * pow(5, -1, _P) % _P
    x = _x_of(y, 0)
    assert x is not None
    return x, y, 1, x * y % _P


_BASE: Final = _base()
