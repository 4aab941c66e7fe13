"""Tables as text: what spreadsheets and terminals make of the names in them."""

import csv

import pytest

from goodnet.reports.tables import format_csv, format_table

HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "a;=1+1",
    'a","=1+1',
    "a\n=1+1",
    "a\r\n@b",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_field_begins_a_formula(name, delimiter):
    lines = format_csv([{"image": name, "answer": 3}])
    assert len(lines) == 2
    for row in csv.reader(lines, delimiter=delimiter):
        for field in row:
            assert not field.startswith(
                ("=", "+", "-", "@", "\t", "\r", "\N{FULLWIDTH EQUALS SIGN}")
            )


def test_numbers_stay_numbers_and_names_can_be_read_again():
    lines = format_csv([{"a": "plain", "b": -1.5, "c": None}, {"a": 'x, "y"', "b": 0, "c": "=1"}])
    assert lines == ["a,b,c", "plain,-1.5,", '"x, ""y""",0,\'=1']
    assert [*csv.reader(lines)][2] == ['x, "y"', "0", "'=1"]


def test_a_terminal_gets_no_control_characters():
    hostile = "a\x1b[31m\u202e\u200b\r\n\x9b2Jb"
    for line in format_table([{"name": hostile, "answer": "1"}]):
        assert line.isprintable()


def test_columns_stand_under_each_other_whatever_the_names_are_written_in():
    names = ["face", "\N{CJK UNIFIED IDEOGRAPH-9854}.png", "e\N{COMBINING ACUTE ACCENT}"]
    lines = format_table([{"image": name, "answer": "1"} for name in names], num_names=2)
    # Two columns of a terminal for the Chinese character, none for the accent.
    assert [line.index("1") for line in lines[1:]] == [8, 7, 9]
