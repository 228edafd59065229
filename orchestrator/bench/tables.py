"""Tables of texts, which look in Markdown as in a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of texts. Where room is short, columns with `dispensable` headings are left out, the first ones first."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    dispensable: Sequence[str] = ()

    def markdown(self) -> str:
        """Return it in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def width(self) -> int:
        """Return how wide it is, with two spaces between columns. Headings may take several lines."""
        return sum(self.widths()) + 2 * (len(self.header) - 1)

    def widths(self) -> list[int]:
        """Return how wide each column is: as its longest cell, or the longest word of its heading."""
        return [
            max(map(len, (*heading.split(), *cells))) for heading, *cells in zip(self.header, *self.rows, strict=True)
        ]

    def fitted(self, width: int) -> "Table":
        """Return it with the columns that fit into so many characters, and with all that are not dispensable."""
        fitting = self._without(self.dispensable)
        for heading in reversed(self.dispensable):
            wider = self._without([each for each in self.dispensable if each not in (*fitting.header, heading)])
            fitting = wider if wider.width() <= width else fitting
        return fitting

    def _without(self, headings: Sequence[str]) -> "Table":
        kept = [place for place, heading in enumerate(self.header) if heading not in headings]
        header, *rows = ([line[place] for place in kept] for line in (self.header, *self.rows))
        return Table(header, rows)
