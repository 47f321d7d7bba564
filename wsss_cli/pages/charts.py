"""Curves as SVG, drawn without any library, so that a report needs none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wsss_cli.pages.html import text

Points = Sequence[tuple[float, float]]
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 220, 48, 24, 10, 12


def curves(caption: str, series: Mapping[str, Points], *, mark: tuple[float, float] | None = None) -> str:
    """Named curves over common axes, with a legend; `mark` is a point to ring. Nothing without two known points."""
    known = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    known = {name: points for name, points in known.items() if len(points) > 1}
    if not known:
        return ""
    frame = _frame([point for points in known.values() for point in points])
    drawn = [_axes(frame)]
    for number, (name, points) in enumerate(known.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(frame, p) for p in points))
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        drawn.append(_word(name, WIDTH - RIGHT, TOP + 12 + 13 * number, colour, "end"))
    if mark is not None:
        x, y = _place(frame, mark)
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="#000"/>')
        drawn.append(_word(f"{mark[1]:.1f} at {mark[0]:g}", x, y + 18, "#000", "middle"))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    picture = f'<svg {size} role="img" aria-label="{text(caption)}">{"".join(drawn)}</svg>'
    return f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>"


def _frame(points: Points) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), max(max(xs), min(xs) + 1e-9), min(0.0, *ys), max(max(ys), 1e-9)


def _place(frame: tuple[float, float, float, float], point: tuple[float, float]) -> tuple[float, float]:
    x0, x1, y0, y1 = frame
    x = LEFT + (point[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    return x, HEIGHT - BOTTOM - (point[1] - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP)


def _axes(frame: tuple[float, float, float, float]) -> str:
    x0, x1, y0, y1 = frame
    left, bottom = _place(frame, (x0, y0))
    right, top = _place(frame, (x1, y1))
    lines = f'<path d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}" fill="none" stroke="#666"/>'
    marks = [_word(f"{x:.3g}", _place(frame, (x, y0))[0], HEIGHT - 8, "#444", "middle") for x in (x0, x1)]
    marks += [
        _word(f"{y:.3g}", left - 4, _place(frame, (x0, y))[1] + 4, "#444", "end")
        for y in (y0, (y0 + y1) / 2, y1)
    ]
    return lines + "".join(marks)


def _word(words: str, x: float, y: float, colour: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="11" font-family="sans-serif" '
        f'text-anchor="{anchor}">{text(words)}</text>'
    )
