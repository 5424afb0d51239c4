"""The support matrix: what came of every attempt."""

from typing import Annotated

from fastapi import Query
from pydantic import Field

from benchfarm_api.parts import PartsDep
from benchfarm_api.routes import PageQuery, new_router
from benchfarm_core.jobs import Page
from benchfarm_core.platforms import Precision
from benchfarm_core.support import SupportRow
from benchfarm_store import support

router = new_router("support")


class SupportQuery(PageQuery):
    """Every given field must match."""

    family: str | None = Field(default=None, max_length=60, description="a kernel type, a model's name or `upload`")
    engine: str | None = Field(default=None, max_length=60)
    precision: Precision | None = None
    board_model: str | None = Field(default=None, max_length=60)


@router.get("/support")
def list_support(parts: PartsDep, query: Annotated[SupportQuery, Query()]) -> Page[SupportRow]:
    """What engines measured and what they failed at, by workload family, precision and board model.

    Built from outcomes only. The uploads of all accounts are one family, `upload`, without anybody's names.
    """
    with parts.database.transaction(read_only=True) as tx:
        return support.list_support(tx, **dict(query))
