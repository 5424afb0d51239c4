"""The report of a search: one HTML file that needs nothing else, its plots drawn as SVG."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from pathlib import Path
from statistics import fmean

WIDTH, HEIGHT, MARGIN = 460, 320, 46
SHOWN = 1500
"""Points of one plot."""
COLOURS = {"ours": "#0b6e4f", "FLOPs": "#c0392b", "seen": "#b8c0c8", "front": "#1f4e8c", "limit": "#888888"}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; color: #1c2226; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2rem .6rem; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child { text-align: left }
.warn { background: #fff3cd; border-left: 4px solid #d39e00; padding: .6rem 1rem } figure { display: inline-block;
margin: .5rem } figcaption { font-size: 13px; max-width: 28rem } .no { color: #c0392b; font-weight: 600 }
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a search saw of an architecture. `latencies_ms`: on each platform; `violation`: at most 0 where the limits
    are met."""

    score: float
    mflops: float
    latencies_ms: tuple[float | None, ...]
    violation: float

    @property
    def is_met(self) -> bool:
        """Whether the limits are."""
        return self.violation <= 0

    @property
    def rank(self) -> tuple[bool, float]:
        """Whoever meets the limits by score, behind them the others by how little they lack."""
        return (True, self.score) if self.is_met else (False, -self.violation)


@dataclass(frozen=True, slots=True)
class Limit:
    """One search: a limit for each platform, by the names that were asked and by key, and the FLOPs that are likened to
    them. `asked`: architectures; `checked`: winners of first searches that were measured; `measured`: what confidence
    routing had measured; `seen`: all that it judged."""

    names: tuple[str, ...]
    platforms: tuple[str, ...]
    limits_ms: tuple[float, ...]
    mflops: float
    asked: int = 0
    checked: int = 0
    measured: int = 0
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True)
class Picked:
    """An architecture that was chosen, on one platform: by us, or by a search that looks at FLOPs."""

    chosen_by: str
    platform: str
    genes: str
    score: float
    mflops: float
    limit_ms: float
    probability: float
    predicted_ms: float | None
    low_ms: float | None
    high_ms: float | None
    measured_ms: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether what was measured stays within the limit; None where nothing was."""
        return None if self.measured_ms is None else self.measured_ms <= self.limit_ms


Point = tuple[float, float]


def write_report(path: Path, limits: Sequence[Limit], picked: Sequence[Picked]) -> None:
    """One HTML file."""
    parts = [_head(limits, picked), "<h2>Predicted against measured</h2>", _predicted_plot(picked)]
    parts += ["<h2>What each search saw, and its front</h2>"]
    parts += [_front_plot(limit, place, picked) for limit in limits for place in range(len(limit.platforms))]
    parts += ["<h2>Who won, and whom FLOPs would have picked</h2>", _table(picked)]
    body = "\n".join(parts)
    title = "Search in OFA-MobileNetV3"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>\n{body}\n</html>\n",
        encoding="utf-8",
    )


def _head(limits: Sequence[Limit], picked: Sequence[Picked]) -> str:
    rows = [
        ("architectures asked", f"{sum(one.asked for one in limits)} in {len(limits)} searches"),
        ("winners of first searches measured, for their errors", str(sum(one.checked for one in limits))),
        ("measurements that confidence routing needed", str(sum(one.measured for one in limits))),
        ("winners measured", str(sum(one.chosen_by == "ours" and one.measured_ms is not None for one in picked))),
    ]
    rows += [(f"of {label} within their limit, measured", _share(picked, by)) for label, by in _SEARCHERS]
    rows += [("mean error of predictions of the picks", _mean_error(picked))]
    listed = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return (
        '<p class="warn"><b>The accuracy is made up.</b> It is a proxy that grows with resolution, depth, windows and'
        " widths. Nothing was trained; only the latencies are real.</p>"
        f"<table>{listed}</table>"
    )


_SEARCHERS = (("our winners", "ours"), ("what FLOPs picked", "FLOPs"))


def _share(picked: Sequence[Picked], chosen_by: str) -> str:
    known = [one.is_met for one in picked if one.chosen_by == chosen_by and one.is_met is not None]
    return f"{sum(known)} of {len(known)}"


def _mean_error(picked: Sequence[Picked]) -> str:
    known = [(one.predicted_ms, one.measured_ms) for one in picked]
    errors = [abs(said / is_ - 1) for said, is_ in known if said is not None and is_ is not None]
    return f"{100 * fmean(errors):.1f} % of {len(errors)}" if errors else "nothing was measured"


def _predicted_plot(picked: Sequence[Picked]) -> str:
    groups = []
    for chosen_by in ("FLOPs", "ours"):
        pairs = [(one.measured_ms, one.predicted_ms) for one in picked if one.chosen_by == chosen_by]
        groups.append((chosen_by, [(is_, said) for is_, said in pairs if is_ is not None and said is not None]))
    ends = [value for _, points in groups for point in points for value in point]
    diagonal = [(min(ends), min(ends)), (max(ends), max(ends))] if ends else []
    caption = "Milliseconds without neighbours, each pick on each platform. On the line a prediction is exact."
    return _figure(groups, ("measured ms", "predicted ms"), caption, lines=[("limit", diagonal)])


def _front_plot(limit: Limit, place: int, picked: Sequence[Picked]) -> str:
    platform, limit_ms = limit.platforms[place], limit.limits_ms[place]
    points = [(ms, one.score) for one in limit.seen if (ms := one.latencies_ms[place]) is not None]
    front = _front(points)
    mine = [one for one in picked if one.platform == platform and one.limit_ms == limit_ms]
    groups = [("seen", points[:: max(1, len(points) // SHOWN)])]
    for chosen_by in ("FLOPs", "ours"):
        found = [(one.measured_ms, one.score) for one in mine if one.chosen_by == chosen_by]
        groups.append((chosen_by, [(ms, score) for ms, score in found if ms is not None]))
    scores = [score for _, score in points] or [0.0]
    bound = [(limit_ms, min(scores)), (limit_ms, max(scores))]
    caption = (
        f"{platform}, limit {limit_ms:.3g} ms. Grey: predicted of {len(points)} architectures; the line is their front."
        " Coloured: the picks, as they were measured."
    )
    lines = [("limit", bound), ("front", front)]
    return _figure(groups, ("ms", "made-up accuracy"), caption, lines=lines)


def _front(points: Iterable[Point]) -> list[Point]:
    """Those that none is faster and better than, by latency."""
    found: list[Point] = []
    for ms, score in sorted(points):
        if not found or score > found[-1][1]:
            found.append((ms, score))
    return found


def _figure(
    groups: Sequence[tuple[str, Sequence[Point]]],
    names: tuple[str, str],
    caption: str,
    lines: Sequence[tuple[str, Sequence[Point]]] = (),
) -> str:
    every = [point for _, points in (*groups, *lines) for point in points]
    if not every:
        return f"<figure><figcaption>Nothing to show. {escape(caption)}</figcaption></figure>"
    x, y = (_Axis.of([point[at] for point in every], size) for at, size in enumerate((WIDTH, HEIGHT)))
    drawn = [_axes(x, y, names)]
    for name, points in lines:
        path = " ".join(f"{x.at(a):.1f},{HEIGHT - y.at(b):.1f}" for a, b in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5"/>')
    for name, points in groups:
        radius = 1.5 if name == "seen" else 4
        dots = (f'<circle cx="{x.at(a):.1f}" cy="{HEIGHT - y.at(b):.1f}" r="{radius}"/>' for a, b in points)
        drawn.append(f'<g fill="{COLOURS[name]}" fill-opacity="0.75">{"".join(dots)}</g>')
    legend = ", ".join(f'<span style="color:{COLOURS[name]}">{escape(name)}</span>' for name, _ in groups)
    box = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(drawn)}</svg>'
    return f"<figure>{box}<figcaption>{legend}. {escape(caption)}</figcaption></figure>"


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to pixels."""

    low: float
    high: float
    size: int

    @classmethod
    def of(cls, values: Sequence[float], size: int) -> "_Axis":
        low, high = min(values), max(values)
        around = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
        return cls(low - around, high + around, size)

    def at(self, value: float) -> float:
        """Pixels from the beginning of the axis's side."""
        return MARGIN + (value - self.low) / (self.high - self.low) * (self.size - MARGIN - 12)

    @property
    def ticks(self) -> list[float]:
        """Some round values."""
        step = 10 ** floor(log10(self.high - self.low))
        step = next(each for each in (step / 5, step / 2, step, 2 * step) if (self.high - self.low) / each <= 6)
        first = -floor(-self.low / step)
        return [number * step for number in range(first, floor(self.high / step) + 1)]


def _axes(x: _Axis, y: _Axis, names: tuple[str, str]) -> str:
    bottom = HEIGHT - MARGIN
    parts = [f'<path d="M{MARGIN},8 V{bottom} H{WIDTH - 8}" fill="none" stroke="#444"/>']
    texts = [(x.at(each), bottom + 15.0, "middle", f"{each:.4g}") for each in x.ticks]
    texts += [(MARGIN - 5, HEIGHT - y.at(each) + 4, "end", f"{each:.4g}") for each in y.ticks]
    texts += [(WIDTH / 2, HEIGHT - 8, "middle", names[0]), (MARGIN + 4, 16, "start", names[1])]
    parts += [
        f'<text x="{a:.1f}" y="{b:.1f}" font-size="11" text-anchor="{anchor}">{escape(text)}</text>'
        for a, b, anchor, text in texts
    ]
    return "".join(parts)


def _table(picked: Sequence[Picked]) -> str:
    names = (
        "genes",
        "by",
        "platform",
        "made-up accuracy",
        "MFLOPs",
        "limit ms",
        "predicted ms",
        "P(met)",
        "measured ms",
    )
    rows = []
    for one in picked:
        interval = f"{_ms(one.predicted_ms)} [{_ms(one.low_ms)}, {_ms(one.high_ms)}]"
        kind = ' class="no"' if one.is_met is False else ""
        texts = (one.genes, one.chosen_by, one.platform, f"{one.score:.2f}", f"{one.mflops:.0f}", f"{one.limit_ms:.3g}")
        cells = "".join(f"<td>{escape(text)}</td>" for text in (*texts, interval, f"{one.probability:.2f}"))
        rows.append(f"<tr>{cells}<td{kind}>{_ms(one.measured_ms)}</td></tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
