"""Charts as inline SVG: no script, no font, no link; every text escaped.

Two hues tell baseline (blue) from today (vermilion) for colour-blind readers too (Okabe and Ito), and
each difference also shows in shape: filled bars against an outline, dots against a diamond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from markupsafe import Markup, escape

BASELINE = "#8fb3d4"
BASELINE_DARK = "#2f6690"
TODAY = "#c64600"
GRID = "#d9dee3"
INK = "#4a5560"

_CROSS = 8.0  # pixels that a cross needs


@dataclass(frozen=True)
class Span:
    """A linear scale from data [low, high] to pixels [start, stop]."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, kept inside the scale."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """At most that many round numbers inside the scale.

        >>> Span(1.18, 1.27, 0, 100).ticks()
        [1.18, 1.2, 1.22, 1.24, 1.26]
        """
        raw = (self.high - self.low) / max(most, 1)
        if not raw > 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def number(value: float | None, digits: int = 3) -> str:
    """A figure short enough for a table: ``digits`` significant ones, whole numbers in full.

    >>> number(1.25004), number(123456.0), number(None), number(float("inf")), number(0.00001234)
    ('1.25', '123,456', '-', '∞', '1.23e-05')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}" if size < 1e9 else f"{value:.2e}"
    return f"{value:.{digits}g}" if size < 10 ** (digits - 1) else f"{value:.0f}"


def histogram(edges: Sequence[float], baseline: Sequence[float], current: Sequence[float]) -> Markup:
    """Two distributions over the same bars: the baseline filled, today as an outline; shares per bar."""
    width, height = 460, 190
    x = Span(edges[0], edges[-1], 44, width - 8)
    y = Span(0.0, max(*baseline, *current, 1e-9) * 1.05, height - 24, 8)
    bars = [
        f'<rect x="{x(lo):.1f}" y="{y(s):.1f}" width="{max(x(hi) - x(lo) - 0.5, 0.5):.1f}" '
        f'height="{y.start - y(s):.1f}" fill="{BASELINE}"/>'
        for lo, hi, s in zip(edges, edges[1:], baseline, strict=False)
        if s > 0
    ]
    steps = "".join(
        f"H{x(lo):.1f}V{y(s):.1f}H{x(hi):.1f}" for lo, hi, s in zip(edges, edges[1:], current, strict=False)
    )
    outline = f'<path d="M{x.start},{y.start}{steps}V{y.start}" fill="none" stroke="{TODAY}" stroke-width="1.8"/>'
    frame = _y_axis(y, x.start, x.stop, percent=True) + _x_axis(x, y.start)
    return _svg(width, height, frame + "".join(bars) + outline, "distribution, baseline against today")


def category_bars(labels: Sequence[str], baseline: Sequence[float], current: Sequence[float]) -> Markup:
    """Two shares per category: the baseline above, today below."""
    width, row, left = 460, 26, 130
    height = row * len(labels) + 24
    x = Span(0.0, max(*baseline, *current, 1e-9), left, width - 44)
    parts = []
    for i, (label, before, now) in enumerate(zip(labels, baseline, current, strict=True)):
        top = i * row + 4
        short = label if len(label) <= 18 else label[:17] + "…"
        parts.append(_text(left - 6, top + 14, short, anchor="end", title=label))
        for share, offset, colour in ((before, 0, BASELINE), (now, 10, TODAY)):
            size = max(x(share) - left, 0.5)
            parts.append(f'<rect x="{left}" y="{top + offset}" width="{size:.1f}" height="9" fill="{colour}"/>')
        parts.append(_text(max(x(before), x(now)) + 5, top + 14, f"{now:.1%}", colour=TODAY))
    return _svg(width, height, "".join(parts) + _x_axis(x, height - 20, percent=True), "share of each category")


def daily_band(days: Sequence[date], means: Sequence[float | None], today: date, value: float | None) -> Markup:
    """A month of daily means: their mean ± 2 SD as a band, each day a dot, today a diamond."""
    known = [m for m in means if m is not None]
    every = [*known, *([value] if value is not None else [])]
    width, height = 460, 190
    if not every:
        return _empty(width, "no daily means")
    centre = sum(known) / len(known) if known else every[0]
    sd = (sum((m - centre) ** 2 for m in known) / (len(known) - 1)) ** 0.5 if len(known) > 1 else 0.0
    low, high = min(*every, centre - 2 * sd), max(*every, centre + 2 * sd)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    y = Span(low - pad, high + pad, height - 24, 8)
    first = min([*days, today])
    x = Span(0, max((today - first).days, 1), 60, width - 14)
    above, below = y(centre + 2 * sd), y(centre - 2 * sd)
    below = max(below, above + 1)
    parts = [
        f'<path d="M{x.start},{above:.1f}H{x.stop}V{below:.1f}H{x.start}z" fill="{BASELINE}" opacity=".4"/>',
        f'<line x1="{x.start}" x2="{x.stop}" y1="{y(centre):.1f}" y2="{y(centre):.1f}" stroke="{BASELINE_DARK}"/>',
    ]
    parts += [
        _dot(x((d - first).days), y(m), f"{d}: {number(m)}") for d, m in zip(days, means, strict=True) if m is not None
    ]
    if value is not None:
        parts.append(_diamond(x((today - first).days), y(value), f"{today}: {number(value)}"))
    axis = _y_axis(y, x.start, x.stop) + _date_axis(x, y.start, first, today)
    return _svg(width, height, axis + "".join(parts), "daily means, baseline band and today")


def heat_map(rows: Sequence[tuple[str, Sequence[float | None], bool]], days: Sequence[date]) -> Markup:
    """Columns by days: (name, z per day, drifted today); blue below, brown above the baseline.

    Colour is full at 6 daily SDs; a grey dot is a day without a figure. A drifted column's last cell
    has a frame.
    """
    left, cell, row = 300, 26, 15
    width, height = left + cell * len(days) + 8, row * len(rows) + 26
    parts = []
    for i, (name, values, drifted) in enumerate(rows):
        top = i * row + 2
        short = name if len(name) <= 46 else "…" + name[-45:]
        parts.append(_text(left - 6, top + 11, short, anchor="end", bold=drifted, title=name))
        for j, z in enumerate(values):
            spot = left + j * cell
            if z is None:
                parts.append(f'<circle cx="{spot + cell / 2}" cy="{top + 7}" r="1" fill="#9aa3ab"/>')
                continue
            frame = f' stroke="{INK}" stroke-width="2"' if drifted and j == len(days) - 1 else ""
            parts.append(
                f'<rect x="{spot}" y="{top}" width="{cell - 1}" height="{row - 1}" fill="{_diverging(z)}"{frame}>'
                f"<title>{escape(name)}, {days[j]}: z = {number(z)}</title></rect>"
            )
    bottom = row * len(rows) + 17
    marks = [_text(left + j * cell + cell / 2, bottom, f"{d:%m-%d}", anchor="middle") for j, d in enumerate(days)]
    return _svg(width, height, "".join(parts + marks[len(days) % 2 :: 2]), "daily z of each column over the last days")


def volume_bars(days: Sequence[date], rows: Sequence[int]) -> Markup:
    """Rows per day; the last day stands out, a day without rows is a cross."""
    width, height = 360, 96
    top = max([*rows, 1])
    x, y = Span(0, max(len(days), 1), 52, width - 4), Span(0, top * 1.08, height - 20, 6)
    slot = (x.stop - x.start) / max(len(days), 1)
    parts = []
    for i, (day, count) in enumerate(zip(days, rows, strict=True)):
        left = x.start + i * slot
        if not count:
            parts.append(_text(left + slot / 2, y.start - 2, "x", anchor="middle", colour=TODAY, title=f"{day}: none"))
            continue
        colour = TODAY if i == len(days) - 1 else BASELINE
        parts.append(
            f'<rect x="{left:.1f}" y="{y(count):.1f}" width="{max(slot - 1.5, 1):.1f}" '
            f'height="{y.start - y(count):.1f}" fill="{colour}"><title>{day}: {count:,} rows</title></rect>'
        )
    ends = _text(x.start, height - 5, f"{days[0]:%m-%d}") + _text(x.stop, height - 5, f"{days[-1]:%m-%d}", anchor="end")
    return _svg(width, height, _y_axis(y, x.start, x.stop, most=2) + "".join(parts) + ends, "rows per day")


def share_bars(days: Sequence[date], shares: Sequence[float | None], allowed: float) -> Markup:
    """A share per day against what is ``allowed`` (dashed); above it a bar stands out, a day without one is a cross."""
    width, height = 920, 170
    x = Span(0, max(len(days), 1), 62, width - 8)
    y = Span(0.0, max([s for s in shares if s is not None] + [allowed]) * 1.15, height - 24, 8)
    slot, parts = (x.stop - x.start) / max(len(days), 1), []
    for i, (day, share) in enumerate(zip(days, shares, strict=True)):
        left = x.start + i * slot
        if share is None and slot >= _CROSS:
            parts.append(_text(left + slot / 2, y.start - 2, "x", anchor="middle", title=f"{day}: no rows"))
        if share is None:
            continue
        parts.append(
            f'<rect x="{left:.1f}" y="{y(share):.1f}" width="{max(min(slot, 60) - 1.5, 1):.1f}" '
            f'height="{y.start - y(share):.1f}" fill="{TODAY if share > allowed else BASELINE}">'
            f"<title>{day}: {share:.3%}</title></rect>"
        )
    line = f'<path d="M{x.start},{y(allowed):.1f}H{x.stop}" stroke="{INK}" stroke-dasharray="5 4"/>'
    ends = _text(x.start, height - 6, f"{days[0]}") + _text(x.stop, height - 6, f"{days[-1]}", anchor="end")
    return _svg(width, height, _y_axis(y, x.start, x.stop, percent=True) + "".join(parts) + line + ends, "per day")


def ranked_bars(bars: Sequence[tuple[str, int, str]]) -> Markup:
    """A number for each name, on a logarithmic scale so that few can be seen beside many; severe ones stand out."""
    width, row, left = 920, 22, 330
    x = Span(0.0, math.log10(max([count for _, count, _ in bars] + [1]) + 1), left, width - 150)
    parts = []
    for i, (name, count, severity) in enumerate(bars):
        top, colour = i * row + 4, TODAY if severity in ("critical", "high") else BASELINE
        short = name if len(name) <= 48 else "…" + name[-47:]
        parts.append(_text(left - 6, top + 12, short, anchor="end", title=name))
        end = x(math.log10(count + 1))
        parts.append(f'<rect x="{left}" y="{top}" width="{max(end - left, 1):.1f}" height="15" fill="{colour}"/>')
        parts.append(_text(end + 6, top + 12, f"{count:,} ({severity})"))
    return _svg(width, row * len(bars) + 8, "".join(parts), "failed values of each rule")


def error_days(points: Sequence[tuple[date, float, float | None, float | None]], reference: float | None) -> Markup:
    """A model's figure per day (day, value, low, high) with its interval; ``reference`` as a dashed line."""
    width, height = 460, 170
    if not points:
        return _empty(width, "no day has enough labels")
    ends = [v for _, value, lo, hi in points for v in (value, lo, hi) if v is not None]
    ends += [reference] if reference is not None else []
    pad = (max(ends) - min(ends)) * 0.08 or abs(ends[0]) * 0.1 or 1.0
    first, last = points[0][0], points[-1][0]
    x = Span(-0.5, (last - first).days + 0.5, 54, width - 10)
    y = Span(min(ends) - pad, max(ends) + pad, height - 24, 8)
    parts = []
    if reference is not None:
        parts.append(
            f'<line x1="{x.start}" x2="{x.stop}" y1="{y(reference):.1f}" y2="{y(reference):.1f}" '
            f'stroke="{INK}" stroke-dasharray="5 4"/>'
        )
    for day, value, lo, hi in points:
        spot = x((day - first).days)
        if lo is not None and hi is not None:
            parts.append(f'<path d="M{spot:.1f},{y(lo):.1f}V{y(hi):.1f}" stroke="{BASELINE_DARK}" stroke-width="1.6"/>')
        note = f"{day}: {number(value)} ({number(lo)} to {number(hi)})"
        if day == last:
            parts.append(_diamond(spot, y(value), note))
        else:
            parts.append(_dot(spot, y(value), note))
    axis = _y_axis(y, x.start, x.stop, most=4) + _date_axis(x, y.start, first, last)
    return _svg(width, height, axis + "".join(parts), "model error per day")


def _diverging(z: float) -> str:
    """White at 0, full blue at -6, full brown at +6; symmetric in lightness."""
    strength = min(abs(z) / 6, 1.0) ** 0.8
    end = (33, 102, 172) if z < 0 else (179, 88, 6)
    return "#" + "".join(f"{round(245 + (c - 245) * strength):02x}" for c in end)


def _dot(x: float, y: float, note: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{BASELINE_DARK}"><title>{escape(note)}</title></circle>'


def _diamond(x: float, y: float, note: str) -> str:
    return (
        f'<path d="M{x - 6:.1f},{y:.1f}l6,-6l6,6l-6,6z" fill="{TODAY}" stroke="#fff">'
        f"<title>{escape(note)}</title></path>"
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = INK, bold: bool = False, title: str = ""
) -> str:
    weight = ' font-weight="700"' if bold else ""
    hint = f"<title>{escape(title)}</title>" if title else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}{hint}</text>'


def _y_axis(y: Span, left: float, right: float, *, most: int = 4, percent: bool = False) -> str:
    lines = []
    for tick in y.ticks(most):
        label = f"{tick:.3g}" if not percent else f"{tick * 100:.3g}%"
        label = f"{tick:,.0f}" if not percent and abs(tick) >= 1000 else label
        lines.append(f'<path d="M{left},{y(tick):.1f}H{right}" stroke="{GRID}"/>')
        lines.append(_text(left - 5, y(tick) + 4, label, anchor="end"))
    return "".join(lines)


def _x_axis(x: Span, baseline: float, *, percent: bool = False) -> str:
    line = f'<path d="M{x.start},{baseline}H{x.stop}" stroke="{INK}"/>'
    labels = [(t, f"{t:.0%}" if percent else f"{t:,.6g}") for t in x.ticks(6)]
    return line + "".join(_text(x(t), baseline + 15, label, anchor="middle") for t, label in labels)


def _date_axis(x: Span, baseline: float, first: date, last: date) -> str:
    line = f'<path d="M{x.start},{baseline}H{x.stop}" stroke="{INK}"/>'
    ends = _text(x.start, baseline + 15, f"{first:%Y-%m-%d}")
    return line + ends + _text(x.stop, baseline + 15, f"{last:%Y-%m-%d}", anchor="end")


def _empty(width: int, text: str) -> Markup:
    return _svg(width, 40, _text(8, 24, text), text)


def _svg(width: float, height: float, body: str, label: str) -> Markup:
    """The finished picture; ``body`` is made of escaped pieces only."""
    return Markup(  # noqa: S704  every text in it went through escape()
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )
