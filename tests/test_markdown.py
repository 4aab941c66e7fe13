"""What Prefect's pages get to show, as text."""

import re

import pytest

from goodnet.reports.tables import format_markdown
from tasks.markdown import artifact_key, as_markdown, markdown_picture

ROWS = [{"net": "a|b", "rate": "1 %"}, {"net": "c", "rate": ""}]


@pytest.mark.parametrize(
    ("of", "key"),
    [
        ("bd_net", "bd-net-report"),
        ("Vendor A: v2.1", "vendor-a-v2-1-report"),
        ("网络", "net-report"),
        ("-", "net-report"),
        ("x" * 500, f"{'x' * 60}-report"),
    ],
)
def test_a_key_is_one_that_prefect_takes_and_the_same_for_a_net_at_any_time(of, key):
    assert artifact_key(of, "report") == key
    assert re.fullmatch("[a-z0-9-]+", key)


def test_a_table_has_a_line_for_each_row_and_no_cell_ends_early():
    lines = format_markdown(ROWS, escape=as_markdown).splitlines()
    assert lines == [
        "| net | rate |",
        "| --- | ---: |",
        "| a\\|b | 1 \\% |",
        "| c |  |",
    ]


def test_a_picture_is_whole_and_its_title_is_text():
    assert markdown_picture(b"png", "a](b)") == "![a\\]\\(b\\)](data:image/png;base64,cG5n)"
    assert as_markdown("<i>\x1b") == "\\<i\\>\\\\x1b"
