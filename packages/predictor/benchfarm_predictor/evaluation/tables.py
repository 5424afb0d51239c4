"""An evaluation of transfer as plain text."""

from collections.abc import Sequence

from benchfarm_predictor.evaluation.report import KernelEvaluation, MethodScores, Spread, TransferEvaluation

COLUMNS = ("samples", "method", "+-5 %", "+-10 %", "MAPE %", "RMSE ms", "Spearman", "in 90 %", "made of")
TEXTS = (1, 8)
"""Columns that stand to the left."""
MEMBERS_SHOWN = 2


def text_tables(found: TransferEvaluation) -> str:
    """One table for each kernel type; mean over repeats and, where there are several, standard deviation."""
    return "\n\n".join(_table(found, kernel) for kernel in found.kernels)


def left_out_lines(found: TransferEvaluation) -> list[str]:
    """What was left out and why, one line each."""
    lines = []
    for one in found.left_out:
        parts = (one.kernel, one.method, f"{one.samples} samples" if one.samples else None)
        lines.append(f"left out: {', '.join(part for part in parts if part)}: {one.reason}")
    return lines


def _table(found: TransferEvaluation, kernel: KernelEvaluation) -> str:
    head = (
        f"{kernel.kernel} on {found.target}, donors {', '.join(kernel.donors)}: samples of {kernel.rows} rows, "
        f"judged by {kernel.test_rows} others, {found.repeats} repeats, seed {found.seed}"
    )
    rows = [COLUMNS, *(_row(one) for one in kernel.methods)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    return "\n".join([head, *(_line(row, widths) for row in rows)])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if at in TEXTS else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _row(one: MethodScores) -> tuple[str, ...]:
    made_of = sorted(one.members, key=lambda name: -one.members[name])[:MEMBERS_SHOWN]
    return (
        str(one.samples),
        one.method,
        percent_text(one.within_5),
        percent_text(one.within_10),
        percent_text(one.mape),
        _spread_text(one.rmse_ms, 1, 4),
        "-" if one.spearman is None else _spread_text(one.spearman, 1, 3),
        "-" if one.coverage is None else percent_text(one.coverage),
        ", ".join(made_of),
    )


def percent_text(value: Spread) -> str:
    """A share as percent."""
    return _spread_text(value, 100, 1)


def _spread_text(value: Spread, factor: float, digits: int) -> str:
    mean = f"{factor * value.mean:.{digits}f}"
    return mean if value.deviation is None else f"{mean} +-{factor * value.deviation:.{digits}f}"
