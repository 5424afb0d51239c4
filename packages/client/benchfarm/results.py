"""A job's items as records: a list that can write itself as CSV."""

from pathlib import Path

from benchfarm_core.csv_rows import ITEM_COLUMNS, csv_header, csv_rows
from benchfarm_core.jobs import ItemState, ItemView


class Results(list[ItemView]):
    """The items of one job, in the order of the job. Times are in ms per iteration."""

    @property
    def measured(self) -> "Results":
        """The items that have a result."""
        return Results(item for item in self if item.summary is not None or item.comparison is not None)

    @property
    def unmeasured(self) -> "Results":
        """The items without one; `reason` and `failure` say why."""
        return Results(item for item in self if item.state in (ItemState.FAILED, ItemState.CANCELLED))

    @property
    def by_platform(self) -> dict[str, "Results"]:
        """The items of each platform, in the order in which the platforms first appear."""
        groups: dict[str, Results] = {}
        for item in self:
            groups.setdefault(item.platform, Results()).append(item)
        return groups

    def to_csv(self, target: Path | str | None = None) -> str:
        """The items as CSV with a header line; also written to `target` where one is given. Absent values are empty."""
        text = csv_header(ITEM_COLUMNS) + csv_rows(ITEM_COLUMNS, self)
        if target is not None:
            Path(target).write_text(text, encoding="utf-8", newline="")
        return text
