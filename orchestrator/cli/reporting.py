"""How a report looks on stdout: as Markdown in a file or pipe, as tables no wider than it is on a terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.bench.tables import Table
from services.frame.program.printable import one_line


def show_report(parts: Iterable[str | Table], whole: str) -> None:
    """Print texts and tables; `whole` is the file that has the columns for which a terminal is too narrow."""
    out = Console(highlight=False)
    if not out.is_terminal:
        print("\n".join(part.markdown() if isinstance(part, Table) else f"{part}\n" for part in parts), end="")
        return
    for part in parts:
        if isinstance(part, Table):
            _show(part, out, whole)
        else:
            out.print(Text(f"{part}\n"))


def _show(table: Table, out: Console, whole: str) -> None:
    fitted = table.fitted(out.width)
    # Where not even the columns that are left fit, their cells are wrapped.
    widths = fitted.widths() if fitted.width() <= out.width else [None] * len(fitted.header)
    shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading, width in zip(fitted.header, widths, strict=True):
        shown.add_column(Text(one_line(heading)), width=width, overflow="fold")
    for row in fitted.rows:
        shown.add_row(*(Text(one_line(cell)) for cell in row))
    out.print(shown)
    left_out = [heading for heading in table.header if heading not in fitted.header]
    out.print(Text(f"There is no room here for {'; '.join(left_out)}: see {whole}.\n" if left_out else ""))
