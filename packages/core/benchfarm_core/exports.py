"""Exports: tables of search spaces that answer without a network, the keys that sign them, and what they lacked."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from benchfarm_core.architectures import MAX_GENES, Genes
from benchfarm_core.ed25519 import KEY_BYTES
from benchfarm_core.values import Answer, Value

TABLE_FORMAT: Final = 1
MAX_TABLE_BYTES: Final = 16 * 1024 * 1024
KEPT_TABLES: Final = 4
"""Of a platform and a space: so many of the newest exports keep their files."""
MAX_MISSES: Final = 1000
"""Architectures of one report, and of one export."""

_GeneChoices = Annotated[tuple[int, ...], Field(min_length=1, max_length=1000, fail_fast=True)]
OnlyGenes = Annotated[dict[Annotated[str, Field(max_length=40)], _GeneChoices], Field(max_length=MAX_GENES)]


class ExportRequest(Value):
    """The body of POST /v1/exports: the table of a search space on a platform, named by id, key or alias.

    `version`: of the platform's predictors of whole models; None: the one that answers. `genes`: the values that a gene
    may have, in all of its places, where a table of the whole space would be too large or is not needed. `max_age_s`: a
    table that was made longer ago is made and signed anew, under its old id; None: the one that is there, however old.
    """

    platform: str = Field(max_length=300)
    space: str = Field(max_length=40)
    version: int | None = Field(default=None, ge=1, lt=2**31)
    genes: OnlyGenes = {}
    max_age_s: int | None = Field(default=None, ge=0, le=10 * 365 * 86_400)


class TableHead(Value):
    """What a table says of itself, signed with it. `kernels`: a hash of how the platform's engine fuses."""

    export_id: str = Field(max_length=40)
    farm: str = Field(max_length=200)
    platform: str = Field(max_length=300)
    space: str = Field(max_length=40)
    space_version: int
    genes: OnlyGenes
    predictor_id: str = Field(max_length=40)
    predictor_version: int
    predictor_sha256: str = Field(max_length=64)
    kernels: str = Field(max_length=64)
    made_at: datetime


class ExportView(Answer):
    """An export as the API shows it.

    `is_current`: its predictor still answers, by the same rules of fusion. `sha256` and `size_bytes` are the file's;
    `has_file`: it is kept. `misses`: different architectures that were reported as missing in it by the caller's
    account, or by all accounts where the caller is an operator.
    """

    id: str
    platform: str
    space: str
    space_version: int
    genes: dict[str, list[int]]
    predictor_id: str
    predictor_version: int
    is_current: bool
    key_id: str
    blocks: int
    size_bytes: int
    sha256: str
    has_file: bool
    misses: int
    created_at: datetime


class FarmKey(Answer):
    """A key of the farm. `public_key` in hexadecimal digits; `is_active`: it signs what is made now."""

    id: str
    algorithm: Literal["ed25519"]
    public_key: str
    is_active: bool
    created_at: datetime


class FarmKeys(Answer):
    """All keys of the farm, the newest first."""

    keys: list[FarmKey]


class MissesReport(Value):
    """Architectures for which a table had no number, by their genes."""

    architectures: tuple[Genes, ...] = Field(min_length=1, max_length=MAX_MISSES, fail_fast=True)


class MissesTaken(Answer):
    """What came of a report: `new` are kept, `known` were reported before, `left_out` are above the limit."""

    new: int
    known: int
    left_out: int


class Miss(Answer):
    """An architecture that a table lacked, and how often that was reported."""

    genes: Genes
    reports: int
    first_at: datetime
    last_at: datetime


class Misses(Answer):
    """All misses of an export, the most often reported first."""

    misses: list[Miss]


def is_key(public_key: str) -> bool:
    """Whether a text is a public key in hexadecimal digits."""
    try:
        return len(bytes.fromhex(public_key)) == KEY_BYTES
    except ValueError:
        return False
