"""Docstrings as they are written here, made fit for reStructuredText.

A formula is an indented paragraph, an example an indented doctest; both would become quotations whose stars and bars
are read as markup. And a name in single backticks, which may leave its module out, links to the one thing of that name.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SECTION = re.compile(
    r"^(Args|Arguments|Attributes|Returns|Yields|Raises|Example|Examples|Note|Notes|Warns|Reference|References):\s*$"
)
KEPT = re.compile(r"(``.+?``|`[^`]+`|(?<![\w*])\*{1,2}(?![\s*])[^*]*[^\s*]\*{1,2}(?![\w*]))")  # code, emphasis


def rewrite(lines: list[str]) -> list[str]:
    """Return the lines with indented paragraphs as blocks of code, and lone markup characters escaped."""
    lines = _joined(lines)
    out: list[str] = []
    section = False
    i = 0
    while i < len(lines):
        line = lines[i]
        indent = len(line) - len(line.lstrip())
        if line.strip() and not indent:
            section = bool(SECTION.match(line))
        fresh = (not out or not out[-1].strip()) and (i == 0 or not _listed(out))
        if indent and fresh and not section:
            block = _block(lines, i)
            body = lines[i : i + block]
            doctest = body[0].lstrip().startswith(">>>")
            base = min(len(b) - len(b.lstrip()) for b in body if b.strip())
            out += [f".. code-block:: {'pycon' if doctest else 'text'}", ""]
            out += [f"    {b[base:]}" if b.strip() else "" for b in body] + [""]
            i += block
            while i < len(lines) and not lines[i].strip():
                i += 1
            continue
        opened = line.rstrip().endswith("::")
        out.append(_escaped(line))
        i += 1
        if opened and i < len(lines):  # a literal block by its own word
            while i < len(lines) and (not lines[i].strip() or len(lines[i]) - len(lines[i].lstrip()) > indent):
                out.append(lines[i])
                i += 1
            if out[-1].strip():
                out.append("")
        elif line.lstrip().startswith(">>>"):
            while i < len(lines) and lines[i].strip():
                out.append(lines[i])
                i += 1
    return out


def _joined(lines: list[str]) -> list[str]:
    """The lines with each list of arguments that goes over several (``a, b,`` and ``c: what they are``) on one."""
    out: list[str] = []
    for line in lines:
        if out and re.fullmatch(r" {4}(\w+, )*\w+,", out[-1]) and line.startswith("     "):
            out[-1] += f" {line.lstrip()}"
        else:
            out.append(line)
    return out


def _block(lines: list[str], start: int) -> int:
    """How many lines an indented block has, all formulas or all examples, blank lines within it included."""
    end, example = start, lines[start].lstrip().startswith(">>>")
    while end < len(lines) and (not lines[end].strip() or lines[end][:1] == " "):
        fresh = end > start and lines[end].strip() and not lines[end - 1].strip()
        if fresh and lines[end].lstrip().startswith(">>>") != example:
            break
        end += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return end - start


def _listed(out: list[str]) -> bool:
    """Whether the paragraph above is an item of a list, whose continuation is indented too."""
    above = [line for line in out if line.strip()]
    if not above:
        return False
    for line in reversed(above):
        if re.match(r"^\s*([*-]|\d+\.|#\.) ", line):
            return True
        if line[:1] != " ":
            return False
    return False


def _escaped(line: str) -> str:
    bullet = re.match(r"\s*([*-] )?", line)[0]  # type: ignore[index]
    parts = KEPT.split(line[len(bullet) :])
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<!\\)([|*])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<=[A-Za-z0-9])_(?=[\s,.;:)]|$)", r"\\_", parts[i])
    return bullet + "".join(parts)


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = rewrite(lines)


def _resolve(app: Sphinx, env: Any, node: Any, contnode: nodes.Element) -> nodes.Element | None:
    """Link a name that leaves out its module, where only one thing bears it."""
    if node.get("refdomain") != "py" or not node.get("reftarget"):
        return None
    target = node["reftarget"].removesuffix("()").lstrip(".~")
    domain = env.get_domain("py")
    found = [n for n, o in domain.objects.items() if n == target or n.endswith(f".{target}")]
    found = [n for n in found if not domain.objects[n].aliased] or found
    if len(found) != 1:
        return None
    entry = domain.objects[found[0]]
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
