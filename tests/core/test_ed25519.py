"""Signatures: the vectors of RFC 8032, another implementation, and what is no signature."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchfarm_core.ed25519 import is_signed, public_key, sign

VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]
SECRET = bytes(range(32))


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_the_vectors_of_the_rfc(secret: str, public: str, message: str, signature: str) -> None:
    key, text = bytes.fromhex(secret), bytes.fromhex(message)
    assert public_key(key).hex() == public
    assert sign(key, text).hex() == signature
    assert is_signed(bytes.fromhex(public), text, bytes.fromhex(signature))


@pytest.mark.parametrize("number", range(6))
def test_another_implementation_makes_the_same(number: int) -> None:
    secret, message = bytes([number * 37 % 256]) * 32, bytes(range(number * 20))
    other = Ed25519PrivateKey.from_private_bytes(secret)
    assert public_key(secret) == other.public_key().public_bytes_raw()
    assert sign(secret, message) == other.sign(message)


def test_anything_else_is_no_signature() -> None:
    public, message = public_key(SECRET), b"a table"
    signature = sign(SECRET, message)
    assert is_signed(public, message, signature)
    assert not is_signed(public, b"another", signature)
    assert not is_signed(public_key(b"\1" * 32), message, signature)
    for place in (0, 31, 32, 63):
        changed = bytearray(signature)
        changed[place] ^= 1
        assert not is_signed(public, message, bytes(changed))
    for wrong in (b"", signature[:-1], signature + b"\0", b"\xff" * 64):
        assert not is_signed(public, message, wrong)
    for wrong in (b"", b"\xff" * 32, public[:-1]):
        assert not is_signed(wrong, message, signature)


def test_a_signature_s_number_is_below_the_order() -> None:
    """The same signature with the order added would be another one for the same message."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = sign(SECRET, b"a")
    larger = int.from_bytes(signature[32:], "little") + order
    assert not is_signed(public_key(SECRET), b"a", signature[:32] + larger.to_bytes(32, "little"))


def test_a_secret_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sign(b"short", b"a")
