"""Tables that lose columns where there is no room for them."""

from orchestrator.bench.results.tables import Table

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


def test_columns_are_left_out_in_their_order_until_the_rest_fits() -> None:
    assert TABLE.fitted(22) == TABLE
    assert TABLE.fitted(21).header == ["name", "a long heading"]
    assert TABLE.fitted(21).rows == [["first", "1.0 (0.5)"], ["2", "2.0"]]
    assert TABLE.fitted(15).header == ["name"]
    assert TABLE.fitted(1).header == ["name"], "what is not dispensable stays"
