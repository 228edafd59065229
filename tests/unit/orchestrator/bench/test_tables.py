"""Tables that lose columns where there is no room for them."""

from orchestrator.bench.tables import Table

TABLE = Table(
    ["name", "a long heading", "last"], [["first", "1.0 (0.5)", "x"], ["2", "2.0", "y"]], ["last", "a long heading"]
)


def test_markdown() -> None:
    assert TABLE.markdown() == (
        "| name | a long heading | last |\n| --- | --- | --- |\n| first | 1.0 (0.5) | x |\n| 2 | 2.0 | y |\n"
    )


def test_headings_may_take_several_lines_and_cells_may_not() -> None:
    assert TABLE.widths() == [5, 9, 4]
    assert TABLE.width() == 5 + 2 + 9 + 2 + 4


def test_the_columns_that_fit_are_shown_those_named_last_before_others() -> None:
    headers = {width: TABLE.fitted(width).header for width in (22, 21, 16, 15, 11, 10, 1)}
    assert headers == {
        22: ["name", "a long heading", "last"],
        21: ["name", "a long heading"],
        16: ["name", "a long heading"],
        # The other one fits where this one does not.
        15: ["name", "last"],
        11: ["name", "last"],
        10: ["name"],
        1: ["name"],
    }
    assert TABLE.fitted(15).rows == [["first", "x"], ["2", "y"]]
