"""Markdown on a terminal whose tables are never cut: one that is too wide is a list of its rows."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


class _WholeTable(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        assert self.header is not None
        assert self.header.row is not None
        heads = [cell.content for cell in self.header.row.cells]
        rows = [[cell.content for cell in row.cells] for row in self.body.rows] if self.body else []
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for cell in self.header.row.cells:
            table.add_column(cell.content, justify=cell.justify, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        if console.measure(table, options=options.update(max_width=10_000)).maximum <= options.max_width:
            yield Padding(table, (1, 0))
            return
        for name, *values in rows:
            yield Text()
            yield name
            for head, value in zip(heads[1:], values, strict=True):
                yield Text.assemble("  ", head, ": ", value, justify="left")
        yield Text()


class WholeMarkdown(Markdown):
    """As rich's, but for tables."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _WholeTable}
