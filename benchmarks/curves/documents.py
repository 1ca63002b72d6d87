"""Puts what was measured into the documents, between the markers that they have for it.

<!-- curve:tags:begin -->  picture and table  <!-- curve:tags:end -->
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.curves.point import COLUMNS, Measured
from benchmarks.curves.sweeps import Sweep


def table(sweep: Sweep, measured: Sequence[Measured]) -> str:
    """In Markdown, a line a point."""
    columns = [COLUMNS[key] for key in sweep.columns]
    lines = [
        "| " + " | ".join([sweep.quantity, *(column.heading for column in columns)]) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    lines += [
        "| " + " | ".join([f"{one.x:,.0f}", *(column.text(one) for column in columns)]) + " |" for one in measured
    ]
    return "\n".join(lines)


def section(sweep: Sweep, measured: Sequence[Measured], picture: str) -> str:
    """Picture, table and what was held; ``picture`` is its path as the document names it."""
    return f"![{sweep.quantity}]({picture})\n\n{sweep.held[0].upper()}{sweep.held[1:]}.\n\n{table(sweep, measured)}"


def fill(text: str, sections: Mapping[str, str]) -> str:
    """``text`` with each section between the markers of its name; those without markers are left out."""
    for name, content in sections.items():
        begin, end = (f"<!-- curve:{name}:{mark} -->" for mark in ("begin", "end"))
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if found and closed:
            text = f"{before}{begin}\n{content}\n{end}{after}"
    return text


def write(documents: Sequence[Path], sections: Mapping[str, str]) -> list[Path]:
    """Fill the documents that have markers for any of it; those that changed."""
    changed = []
    for path in documents:
        before = path.read_text("utf-8")
        after = fill(before, sections)
        if after != before:
            path.write_text(after, "utf-8")
            changed.append(path)
    return changed
