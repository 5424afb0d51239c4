"""A job's items as records: a list that can write itself as CSV."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchfarm_core.jobs import ItemState, ItemView
from benchfarm_core.summaries import Summary
from benchfarm_core.workloads import workload_label

CSV_COLUMNS: Final = (
    "item_no", "workload_id", "workload", "label", "platform_id", "platform", "repeat", "state", "source", "reason",
    "failure", "measurement_id", "origin", "board_id", "measured_at", *Summary.model_fields,
)  # fmt: skip
"""The columns of the farm's own CSV, in its order."""


class Results(list[ItemView]):
    """The items of one job, in the order of the job. Times are in ms per iteration."""

    @property
    def measured(self) -> "Results":
        """The items that have a result."""
        return Results(item for item in self if item.summary is not None)

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
        text = _csv(self)
        if target is not None:
            Path(target).write_text(text, encoding="utf-8", newline="")
        return text


def _csv(items: Iterable[ItemView]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for item in items:
        values = {name: getattr(item, name) for name in CSV_COLUMNS if name in ItemView.model_fields}
        values |= {**(item.summary.model_dump() if item.summary else {}), "workload": workload_label(item.workload)}
        writer.writerow({name: _cell(value) for name, value in values.items()})
    return buffer.getvalue()


def _cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets a quote in front: labels are other people's words."""
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
