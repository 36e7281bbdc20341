"""HTML building blocks of the report: the template, tables and escaping. Loads no resources."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

GENERATOR = '<meta name="generator" content="scaling report">'
"""Metadata that identifies a page of this package."""

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
$generator
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --muted: #5b6472; --line: #dfe3e8; --card: #f6f7f9;
  --warn: #b45309; --warn-card: #fff7ed; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e6e9ed; --muted: #9aa4b2; --line: #2c333c; --card: #1c2127;
  --warn: #fdba74; --warn-card: #2a1f12; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid var(--line);
  padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.8rem 0 .3rem; }
p { margin: .4rem 0; } .muted, figcaption, caption { color: var(--muted); font-size: .9rem; }
code, pre, .equation { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.equation { font-size: 1.15rem; overflow-wrap: anywhere; margin: .2rem 0 .4rem; }
pre { background: var(--card); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .88rem; }
.cards { display: grid; gap: .8rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; }
.card .name { color: var(--muted); font-size: .85rem; }
.card .value { font-size: 1.45rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.wide { grid-column: 1 / -1; }
.warnings { border-left: 4px solid var(--warn); background: var(--warn-card);
  padding: .7rem 1rem; border-radius: 0 8px 8px 0; margin: 1.2rem 0; }
.warnings strong { color: var(--warn); } .warnings ul { margin: .3rem 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
  min-width: 100%; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .7rem .3rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
figure { margin: 1.4rem 0; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; padding: .6rem;
  border: 1px solid var(--line); border-radius: 8px; }
figcaption { margin-top: .4rem; }
</style>
</head>
<body>
$body
</body>
</html>
""")


def page(title: str, sections: Iterable[str]) -> str:
    """The whole document; sections are HTML, and the title is plain text."""
    body = "\n".join(section for section in sections if section)
    return _PAGE.substitute(generator=GENERATOR, title=text(title), body=body)


def text(value: object) -> str:
    """A value as text, escaped for any position in the document."""
    return html.escape(str(value), quote=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table that scrolls horizontally on a narrow screen; every cell is escaped."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>"
                     for row in rows)
    over = f"<caption>{text(caption)}</caption>" if caption else ""
    return (f'<div class="scroll"><table>{over}<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>")


def card(name: str, value: str, notes: Sequence[str]) -> str:
    """A card with a key number and notes below it."""
    lines = "".join(f'<div class="muted">{text(note)}</div>' for note in notes)
    return (f'<div class="card"><div class="name">{text(name)}</div>'
            f'<div class="value">{text(value)}</div>{lines}</div>')


def warnings(title: str, lines: Sequence[str]) -> str:
    """A highlighted box of warnings; empty if there are none."""
    if not lines:
        return ""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<div class="warnings"><strong>{text(title)}</strong><ul>{items}</ul></div>'


def figure(svg: Path, caption: str) -> str:
    """An SVG embedded as an image, so that its ids and styles do not affect the page."""
    data = base64.b64encode(svg.read_bytes()).decode("ascii")
    return (f'<figure><img alt="{text(caption)}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{text(caption)}</figcaption></figure>")
