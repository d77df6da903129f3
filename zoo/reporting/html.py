"""One HTML file that needs nothing beside itself: tables, text and figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from zoo.reporting.plots import Picture

STYLE = """
body { font: 16px/1.5 Georgia, serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2 { font-weight: 600; line-height: 1.2 } h2 { margin-top: 2.2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font: 14px/1.4 system-ui, sans-serif; margin: 1rem 0 }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #444 } td.n { text-align: right; font-variant-numeric: tabular-nums }
td.none { color: #767676 }
figure { margin: 1.5rem 0 } figure img { max-width: 100%; height: auto } figcaption { color: #444; font-size: .92rem }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 13px }
footer { margin-top: 3rem; color: #666; font-size: .85rem; border-top: 1px solid #ddd; padding-top: .7rem }
@media (max-width: 40rem) { body { margin: 1rem auto } h1 { font-size: 1.5rem } th, td { padding: .3rem .45rem } }
@media print { body { max-width: none; margin: 0; font-size: 11pt } figure { break-inside: avoid }
  .wide { overflow: visible } table { font-size: 8pt } th, td { padding: .15rem .3rem } a { color: inherit } }
"""


class Page:
    """Collects the parts of a page, in order; `write` makes the file."""

    def __init__(self, title: str, intro: str = "") -> None:
        self.title, self.parts = title, [f"<h1>{html.escape(title)}</h1>"]
        if intro:
            self.paragraph(intro)

    def heading(self, text: str, anchor: str = "") -> None:
        self.parts.append(f'<h2 id="{html.escape(anchor)}">{html.escape(text)}</h2>')

    def paragraph(self, text: str) -> None:
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def block(self, text: str) -> None:
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], why: Sequence[Sequence[str]] | None = None
    ) -> None:
        """A table; ``why`` holds the reason of each empty cell, shown when it is pointed at. A cell that ends with
        ``[#anchor]`` links to that part of the page."""
        lines = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr>"]
        for i, row in enumerate(rows):
            cells = []
            for j, cell in enumerate(row):
                if not cell and why and why[i][j]:
                    cells.append(f'<td class="none" title="{html.escape(why[i][j])}">&ndash;</td>')
                    continue
                text, _, anchor = cell.partition(" [#")
                kind = ' class="n"' if j and text[:1].isdigit() and len(text) < 18 else ""
                link = f' <a href="#{html.escape(anchor[:-1])}">figure</a>' if anchor else ""
                cells.append(f"<td{kind}>{html.escape(text)}{link}</td>")
            lines.append(f"<tr>{''.join(cells)}</tr>")
        self.parts.append(f'<div class="wide"><table>{"".join(lines)}</table></div>')

    def picture(self, picture: Picture) -> None:
        data = base64.b64encode(picture.svg.read_bytes()).decode()
        self.parts.append(
            f'<figure id="{picture.name}"><img alt="{html.escape(picture.caption)}" '
            f'src="data:image/svg+xml;base64,{data}"><figcaption>{html.escape(picture.caption)}</figcaption></figure>'
        )

    def write(self, file: Path, foot: str = "") -> None:
        body = "\n".join(self.parts)
        file.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width"><title>{html.escape(self.title)}</title><style>{STYLE}</style></head>\n'
            f"<body>\n{body}\n<footer>{html.escape(foot)}</footer>\n</body></html>\n",
            encoding="utf-8",
        )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    safe = [[c.replace("|", "\\|") for c in row] for row in rows]
    lines = [f"| {' | '.join(c.replace('|', chr(92) + '|') for c in head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in safe)]) + "\n"


def terminal(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; rich draws it, and wraps what is too wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=i == 0)
    for row in rows:
        table.add_row(*[_plain(c) for c in row])
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no edge to wrap at
    console.print(table)


def _plain(cell: str) -> str:
    from rich.markup import escape

    return escape(cell.partition(" [#")[0])
