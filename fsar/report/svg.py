"""Figures as SVG text that takes its colours from the page: bars, curves, scatter plots, matrices."""

import math
from collections.abc import Mapping, Sequence
from html import escape

SERIES = 8
"""Colours of the page's style sheet, c0 to c7; more series take them again with other dashes."""
FONT = 'font-family="system-ui, sans-serif" font-size="11"'


def picture(width: float, height: float, body: str, label: str) -> str:
    """Return an SVG of its own size that shrinks with the page; `label` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(label)}" xmlns="http://www.w3.org/2000/svg" {FONT}>{body}</svg>'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    """Return a line of text."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style} fill="currentColor">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "axis") -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def bars(rows: Sequence[tuple[str, float, float | None]], label: str, *, chance: float | None = None) -> str:
    """Return horizontal bars of shares in [0, 1] with half-widths of intervals: (name, value, half or None)."""
    left, width, step = 8 + 6.2 * max((len(_short(name)) for name, _, _ in rows), default=1), 320.0, 20
    height = step * len(rows) + 26
    body = [line(left + width * tick / 4, 4, left + width * tick / 4, height - 20, "grid") for tick in range(5)]
    body += [
        text(left + width * tick / 4, height - 6, f"{25 * tick}", anchor="middle", kind="small") for tick in range(5)
    ]
    for place, (name, value, half) in enumerate(rows):
        y = 6 + step * place
        body.append(text(left - 6, y + 12, _short(name), anchor="end"))
        body.append(
            f'<rect x="{left:.1f}" y="{y}" width="{max(width * value, 0.5):.1f}" height="{step - 6}" class="bar">'
            f"<title>{escape(name)}: {100 * value:.2f} %</title></rect>"
        )
        if half:
            x, middle = left + width * value, y + step / 2 - 3
            body.append(line(x - width * half, middle, x + width * half, middle, "whisker"))
        body.append(text(left + width * min(value + (half or 0), 1) + 6, y + 12, f"{100 * value:.1f}", kind="small"))
    if chance is not None:
        body.append(line(left + width * chance, 2, left + width * chance, height - 18, "chance"))
    return picture(left + width + 44, height, "".join(body), label)


def curves(series: Mapping[str, Sequence[tuple[float, float]]], label: str, *, percent: bool = False) -> str:
    """Return lines of (x, y) points by name, with a legend."""
    points = [point for of in series.values() for point in of if math.isfinite(point[1])]
    if not points:
        return ""
    width, height, left, top = 420.0, 190.0, 52.0, 10.0
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = (0.0, 1.0) if percent else (min(y for _, y in points), max(y for _, y in points))
    x_span, y_span = (x_high - x_low) or 1.0, (y_high - y_low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * (x - x_low) / x_span, top + height * (1 - (y - y_low) / y_span)

    body = []
    for tick in range(5):
        value = y_low + y_span * tick / 4
        y = place(x_low, value)[1]
        body.append(line(left, y, left + width, y, "grid"))
        body.append(
            text(left - 6, y + 4, f"{100 * value:.0f} %" if percent else f"{value:.3g}", anchor="end", kind="small")
        )
    body += [text(left, top + height + 16, f"{x_low:g}", kind="small")]
    body += [text(left + width, top + height + 16, f"{x_high:g}", anchor="end", kind="small")]
    for number, (name, of) in enumerate(series.items()):
        drawn = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in of if math.isfinite(y))
        body.append(f'<polyline points="{drawn}" class="curve c{number % SERIES} d{number // SERIES % 3}"/>')
        body += [_dot(*place(x, y), number, f"{name}: {y:.4g} after {x:g}") for x, y in of if math.isfinite(y)]
        y = top + 14 * number + 8
        body.append(
            line(left + width + 12, y, left + width + 34, y, f"curve c{number % SERIES} d{number // SERIES % 3}")
        )
        body.append(text(left + width + 40, y + 4, _short(name)))
    longest = max(len(_short(name)) for name in series)
    return picture(
        left + width + 48 + 6.2 * longest, max(top + height + 24, top + 14 * len(series) + 14), "".join(body), label
    )


def scatter(points: Sequence[tuple[float, float]], classes: Sequence[int], names: Sequence[str], label: str) -> str:
    """Return a map of points by class; marks differ in colour and shape, and say their class when pointed at."""
    size, pad = 300.0, 10.0
    spans = []
    for axis in range(2):
        values = [point[axis] for point in points]
        spans.append((min(values), (max(values) - min(values)) or 1.0))
    body = [f'<rect x="0.5" y="0.5" width="{size + 2 * pad - 1}" height="{size + 2 * pad - 1}" class="frame"/>']
    for point, number in zip(points, classes, strict=True):
        x, y = (pad + size * (point[axis] - spans[axis][0]) / spans[axis][1] for axis in range(2))
        body.append(_mark(x, y, number, names[number]))
    return picture(size + 2 * pad, size + 2 * pad, "".join(body), label)


def _dot(x: float, y: float, number: int, title: str) -> str:
    words = f"<title>{escape(title)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" class="mark c{number % SERIES}">{words}</circle>'


def _mark(x: float, y: float, number: int, name: str) -> str:
    colour, shape = f"c{number % SERIES}", number // SERIES % 3
    title = f"<title>{escape(name)}</title>"
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="mark {colour}">{title}</circle>'
    if shape == 1:
        return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" class="mark {colour}">{title}</rect>'
    corners = f"{x:.1f},{y - 4:.1f} {x - 4:.1f},{y + 3:.1f} {x + 4:.1f},{y + 3:.1f}"
    return f'<polygon points="{corners}" class="mark {colour}">{title}</polygon>'


def matrix(names: Sequence[str], shares: Sequence[Sequence[float]], label: str) -> str:
    """Return a square matrix of shares in [0, 1], rows and columns by name."""
    cell = max(10.0, min(24.0, 420.0 / max(len(names), 1)))
    left, n = 8 + 6.2 * max(len(_short(name)) for name in names), len(names)
    body = []
    for row, own in enumerate(shares):
        body.append(text(left - 5, cell * row + cell / 2 + 4, _short(names[row]), anchor="end", kind="small"))
        for column, share in enumerate(own):
            body.append(
                f'<rect x="{left + cell * column:.1f}" y="{cell * row:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
                f'class="{"right" if row == column else "wrong"}" fill-opacity="{share:.3f}">'
                f"<title>{escape(names[row])} taken for {escape(names[column])}: {100 * share:.1f} %</title></rect>"
            )
    body.append(f'<rect x="{left:.1f}" y="0" width="{cell * n:.1f}" height="{cell * n:.1f}" class="frame"/>')
    return picture(left + cell * n + 2, cell * n + 2, "".join(body), label)


def _short(name: str, n: int = 34) -> str:
    return name if len(name) <= n else name[: n - 1] + "…"
