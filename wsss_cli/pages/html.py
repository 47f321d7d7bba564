"""Building blocks of a page: escaped text, tables, sections, the page itself."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #2a6fb0; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; display: block; overflow-x: auto; } caption { text-align: left; font-weight: 600; }
th, td { border: 1px solid var(--line); padding: .15rem .5rem; text-align: right; }
td:first-child, th { text-align: left; }
.beside { display: flex; flex-wrap: wrap; gap: 0 2rem; margin-bottom: 1rem; }
figure { display: inline-block; margin: .5rem 1.5rem .5rem 0; } figcaption { font-size: .85rem; }
svg { background: #fff; border: 1px solid var(--line); } details { margin: .3rem 0; }
code { font: .85em ui-monospace, monospace; }
#gallery { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 2px solid var(--line); border-radius: 4px; padding: .4rem; max-width: 100%; overflow-x: auto; }
.card[hidden] { display: none; } .card.chosen { border-color: var(--accent); } .card p { margin: 0; font-size: .85rem; }
.card .row { display: flex; gap: 3px; } .card img { height: 140px; } .card.chosen img { height: 280px; }
.bar { margin: .6rem 0; } .bar label { margin-right: 1rem; }
"""
# Nothing is loaded from anywhere: an open report tells nobody.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def text(value: object) -> str:
    """Any value as text of a page; numbers short, None a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return html.escape(f"{value:.4g}" if abs(value) < 1 else f"{value:.1f}")
    return html.escape(str(value), quote=True)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column names the rows."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def section(title: str, *parts: str) -> str:
    """A headline with what stands below it, nothing if that is empty."""
    body = "".join(parts)
    return f"<section><h2>{text(title)}</h2>{body}</section>" if body else ""


def beside(*parts: str) -> str:
    """Parts next to each other, as far as the window is wide."""
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def details(title: str, body: str) -> str:
    """Something that opens when it is clicked."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def page(title: str, body: str, script: str) -> str:
    """The whole document."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{text(title)}</h1>{body}<script>{script}</script></body></html>\n"
    )
