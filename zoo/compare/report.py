"""Show a comparison: table in the terminal, Markdown, CSV, JSON, figures, and one page of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.compare.figures import draw
from zoo.compare.significance import findings, lines, to_latex
from zoo.compare.table import cells, commit, hardware, label, meanings, notes, to_csv
from zoo.reporting.html import Page, markdown, terminal
from zoo.storage.files import write_json

Row = Mapping[str, Any]
MEANT = (
    "Intervals are Student's over the seeds; p is that of a paired t-test with the best model over the seeds that both "
    "have, by Holm's method. On the Pareto front is what no other model beats in both score and cost."
)


def show(rows: Sequence[Row]) -> None:
    """Print the table, and what it cannot say."""
    head, text, why = cells(rows)
    terminal(_title(rows), head, text)
    for note in notes(rows, why):
        print(f"  {note}")


def write_report(rows: Sequence[Row], folder: Path, name: str) -> list[Path]:
    """Write ``name.json``, ``.csv``, ``.tex``, ``.md``, ``.html`` and the figures; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    head, text, why = cells(rows)
    pictures = draw(rows, folder / "figures", name)
    title, foot = _title(rows), _foot(rows)
    remarks = notes(rows, why)
    found = findings(rows)
    said = lines(found, next(r["metric"] for r in rows if r["seeds"])) if found else ([], [])
    write_json(folder / f"{name}.json", {"data": rows[0]["data"], "rows": list(rows), "findings": found})
    (folder / f"{name}.tex").write_text(to_latex(rows), encoding="utf-8")
    (folder / f"{name}.csv").write_text(to_csv(rows), encoding="utf-8")

    text_lines = [f"# {title}", "", markdown(head, text), *(f"* {r}" for r in remarks), "", meanings(rows), ""]
    text_lines += [markdown(*said), "", MEANT, ""] if found else []
    text_lines += [foot, ""]
    text_lines += [f"![{p.caption}](figures/{p.png.name})\n\n{p.caption}\n" for p in pictures]
    (folder / f"{name}.md").write_text("\n".join(text_lines), encoding="utf-8")

    page = Page(title, "Every number was measured in one run; a blank cell says why where it is pointed at.")
    page.table(head, text, why)
    for remark in remarks:
        page.paragraph(remark)
    page.paragraph(meanings(rows))
    if found:
        page.table(*said, [[""] * len(said[0])] * len(said[1]))
        page.paragraph(MEANT)
    for picture in pictures:
        page.picture(picture)
    page.write(folder / f"{name}.html", foot)
    return [folder / f"{name}.{ending}" for ending in ("md", "csv", "tex", "json", "html")]


def _title(rows: Sequence[Row]) -> str:
    names = {r["model"] for r in rows}
    return f"{names.pop() if len(names) == 1 else 'Models'} compared on {rows[0]['data']}"


def _foot(rows: Sequence[Row]) -> str:
    """Seeds, and each environment that numbers were measured in; where there are several, of which models."""
    found: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for row in rows:
        for env in row["environments"]:
            where = hardware(env), f"torch {env['versions']['torch']}", f"commit {commit(env)}"
            found.setdefault(where, []).append((label(row), env["time"]))
    if not found:
        return "Nothing was measured."
    seeds = sorted({s for r in rows for s in r["seeds"]})
    parts = [f"Seeds {', '.join(map(str, seeds))}"]
    for place, uses in found.items():
        which = f"{', '.join(dict.fromkeys(name for name, _ in uses))}: " if len(found) > 1 else ""
        parts.append(f"{which}{'; '.join(place)}; {min(when for _, when in uses)}")
    return f"{'. '.join(parts)}." if len(found) > 1 else f"{'; '.join(parts)}."
