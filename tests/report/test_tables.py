from moshijax.report.tables import WIDTH, Table, as_text


def test_columns_are_aligned_and_those_without_content_left_out():
    table = Table(
        "All", ("", "none", "GiB", "line"), [("a", "", "1.00", "x"), ("bc", "", "10", "yz")], (3,)
    )
    assert as_text(table).splitlines() == [
        "All",
        "       GiB  line",
        "  a   1.00  x",
        "  bc    10  yz",
    ]


def test_a_star_marks_the_best_and_numbers_stay_below_each_other():
    table = Table(
        "", ("arm", "top\u20111\N{NO-BREAK SPACE}%"), [("a", "8.5"), ("b", "10.5")], best=[(1, 1)]
    )
    assert as_text(table).splitlines() == [
        "  arm  top-1 %",
        "  a       8.5",
        "  b      10.5*",
    ]


def test_a_long_note_is_wrapped_below():
    lines = as_text(Table("T", ("", ""), [("a", "1")], note="word " * 60)).splitlines()
    assert lines[:2] == ["T", "  a  1"]
    assert len(lines) == 6
    assert max(map(len, lines)) <= WIDTH


def test_a_table_without_rows_has_its_columns():
    assert as_text(Table("T", ("a", "b"), [])) == "T\n  a  b"
