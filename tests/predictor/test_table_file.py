"""Files of tables: what is signed is what is read, and anything else is refused by what is wrong with it."""

import hashlib
import json
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import load, save

from benchfarm_core import ed25519
from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.exports import MAX_TABLE_BYTES, TableHead
from benchfarm_predictor import table_file
from benchfarm_predictor.predictor_file import write as write_predictor
from benchfarm_predictor.space_tables import SpaceTable, compiled
from benchfarm_workloads.spaces import draws, space
from benchfarm_workloads.spaces.every_block import every_block
from tests.predictor.whole_predictors import LEARNT, whole_predictors

SECRET = bytes(range(32))
KEYS = {"key_1": ed25519.public_key(SECRET).hex()}
HEAD = TableHead(
    export_id="ex_1",
    farm="here",
    platform="p",
    space="bert",
    space_version=1,
    genes={"seq": (64, 128)},
    predictor_id="pr_7",
    predictor_version=3,
    predictor_sha256="0" * 64,
    kernels="k",
    made_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
)


@cache
def table() -> SpaceTable:
    blocks, slots = every_block(space("bert"), HEAD.genes)
    parts = [LEARNT.block(space("bert"), block) for block in blocks]
    return compiled(
        whole_predictors("bert", 40)["regional"], space("bert"), blocks, parts, slots, draws("bert", "t", 20)
    )


def sign(message: bytes) -> bytes:
    return ed25519.sign(SECRET, message)


@cache
def written() -> bytes:
    return table_file.write(table(), HEAD, "key_1", sign)


def code(data: bytes, keys: dict[str, str] | None = None) -> str:
    with pytest.raises(InvalidRequest) as refused:
        table_file.read(data, KEYS if keys is None else keys)
    return refused.value.code


def metadata_of(data: bytes) -> dict[str, str]:
    found = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert found.keys() == {"benchfarm"}
    return dict(found)


def rewritten(predictor_id: str) -> bytes:
    """The file with another text, and the signature kept."""
    data = written()
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    signed = json.loads(outer["__metadata__"]["benchfarm"])
    signed["text"] = signed["text"].replace("pr_7", predictor_id)
    outer["__metadata__"]["benchfarm"] = json.dumps(signed)
    text = json.dumps(outer).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_what_was_written_is_read() -> None:
    found, head = table_file.read(written(), KEYS)
    assert head == HEAD
    assert found.blocks == table().blocks
    assert (found.packed, found.slots, found.regions) == (table().packed, table().slots, table().regions)
    drawn = draws("bert", "r", 60)
    codes = found.encode(space("bert"), drawn)
    for (_, own, _), (_, other, _) in zip(found.answers(codes), table().answers(codes), strict=True):
        np.testing.assert_array_equal(own.latency_ms, other.latency_ms)
        np.testing.assert_array_equal(own.high_ms, other.high_ms)
    assert table_file.write(table(), HEAD, "key_1", sign) == written()


def test_every_changed_byte_is_noticed() -> None:
    """A few hundred places all over the file."""
    data = written()
    for place in range(8, len(data), max(len(data) // 300, 1)):
        changed = bytearray(data)
        changed[place] ^= 4
        assert code(bytes(changed)) in ("table_tampered", "table_foreign"), place


def test_every_changed_bit_of_the_header_is_noticed() -> None:
    """Also where it would be read as the same: other digits of the signature, other blanks behind the header."""
    data = written()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    at = header.index(b"signature") + len(b'signature\\":\\"')
    signature = header[at : at + 128]
    assert bytes.fromhex(signature.decode())
    spelt = header.replace(signature, signature.upper())
    spaced = header.rstrip() + b"\t" * (length - len(header.rstrip()))
    fewer = header.replace(signature, b" " + signature[1:])
    for other in (spelt, fewer, *([spaced] if spaced != header else [])):
        assert other != header
        assert code(data[:8] + other + data[8 + length :]) == "table_tampered"
    for place in range(0, 8 + length, 7):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            assert code(bytes(changed)) in ("table_tampered", "table_foreign"), (place, bit)


def with_header(header: bytes) -> bytes:
    data = written()
    length = int.from_bytes(data[:8], "little")
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def test_the_header_around_what_is_signed_has_one_form() -> None:
    """All of these are the same JSON, or JSON that the library reads as the same arrays."""
    data = written()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    compact, outer = header.rstrip(b" "), json.loads(header)
    turned = {name: outer[name] for name in reversed(outer)}
    places = {**outer, "words": dict(reversed(outer["words"].items()))}
    more = {**outer, "__metadata__": {**outer["__metadata__"], "more": "x"}}
    others = {
        "a blank": compact.replace(b'":{', b'": {', 1),
        "an escape": compact.replace(b'"words"', b'"w\\u006frds"', 1),
        "an escape in what is signed": compact.replace(b'\\"', b"\\u0022", 1),
        "another order": json.dumps(turned, ensure_ascii=False, separators=(",", ":")).encode(),
        "another order of a place": json.dumps(places, ensure_ascii=False, separators=(",", ":")).encode(),
        "more beside it": json.dumps(more, ensure_ascii=False, separators=(",", ":")).encode(),
        "told twice": compact[:-1] + b',"words":' + json.dumps(outer["words"]).encode() + b"}",
        "blanks behind it": header + b" " * 8,
        "a blank before it": b" " + compact,
        "other letters": compact.decode().encode("utf-16"),
    }
    assert table_file.read(with_header(header), KEYS)[1] == HEAD
    for what, other in others.items():
        assert other not in (header, compact), what
        assert code(with_header(other)) == "table_tampered", what


def test_tables_of_before_have_that_form() -> None:
    """They were written as the library has it."""
    assert bytes(save(dict(load(written())), metadata_of(written()))) == written()


def test_half_a_surrogate_pair_stands_for_nothing() -> None:
    asking = HEAD.model_copy(update={"farm": "whose?"})
    data = table_file.write(table(), asking, "key_1", sign)
    assert table_file.read(data, KEYS)[1].farm == "whose?"
    length = int.from_bytes(data[:8], "little")
    for other in (b"\\ud800", b"\\\\ud800", b"\\\\\\\\ud800"):
        header = data[8 : 8 + length].replace(b"?", other)
        assert code(len(header).to_bytes(8, "little") + header + data[8 + length :]) in (
            "table_tampered",
            "table_foreign",
        )


def test_other_bytes_in_an_array_are_tampered_with() -> None:
    changed = bytearray(written())
    changed[-9] ^= 1
    assert code(bytes(changed)) == "table_tampered"
    assert code(written()[:-8]) == "table_tampered"
    assert code(rewritten("pr_8")) == "table_tampered"


def test_an_array_more_or_less_is_noticed() -> None:
    arrays, metadata = dict(load(written())), metadata_of(written())
    assert code(bytes(save({**arrays, "more": np.zeros(3)}, metadata))) == "table_tampered"
    arrays.pop("words")
    assert code(bytes(save(arrays, metadata))) == "table_tampered"


def test_another_s_signature_is_not_believed() -> None:
    other = b"\7" * 32
    forged = table_file.write(table(), HEAD, "key_1", lambda message: ed25519.sign(other, message))
    assert code(forged) == "table_tampered"
    assert code(table_file.write(table(), HEAD, "key_2", sign)) == "table_foreign"
    assert code(written(), {}) == "table_foreign"


@pytest.mark.parametrize("data", [b"", b"no table at all", b"\xff" * 64, bytes(200)])
def test_what_is_no_table_is_foreign(data: bytes) -> None:
    assert code(data) == "table_foreign"


def test_a_predictor_s_file_is_no_table() -> None:
    assert code(write_predictor(whole_predictors("bert", 40)["ridge"])) == "table_foreign"


def test_above_its_bytes_no_table_is_read_or_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code(bytes(MAX_TABLE_BYTES + 1)) == "table_tampered"
    monkeypatch.setattr(table_file, "MAX_TABLE_BYTES", 1000)
    with pytest.raises(TooLarge) as refused:
        table_file.write(table(), HEAD, "key_1", sign)
    assert refused.value.field == "genes"


def test_the_header_tells_hashes_that_anybody_can_check() -> None:
    said = json.loads(json.loads(metadata_of(written())["benchfarm"])["text"])
    words = load(written())["words"]
    assert said["arrays"]["words"]["sha256"] == hashlib.sha256(words.tobytes()).hexdigest()
    assert said["head"]["platform"] == "p"
