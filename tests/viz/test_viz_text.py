"""Fonts and text blocks: Chinese, wrapping, and what happens where no font can write a text."""

import logging

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.viz import fonts
from qcvl.viz.fonts import PillowTypeface, can_write, default_typeface, find_font, one_line
from qcvl.viz.text import PAPER, UNWRITABLE, TextLine, badge_size, readable_on, shorten, text_block, wrap, writable

TEXTS = st.text(st.sampled_from("abc WMi.,/ 螺丝缺失×1，"), min_size=1, max_size=60).map(one_line).filter(bool)


def test_the_fonts_of_this_installation_write_chinese():
    assert can_write("BBU设备×1，光模块×3：不通过？螺丝/缺失 é ° ≥", default_typeface())


def test_a_latin_font_says_that_it_cannot_write_chinese_and_logs_it_once(caplog):
    latin = PillowTypeface(None)

    with caplog.at_level(logging.WARNING):
        assert [can_write(text, latin) for text in ("screw ?", "螺丝", "BBU设备")] == [True, False, False]
    assert len(caplog.records) == 1
    assert "fonts-noto-cjk" in caplog.text
    assert writable("螺丝", latin) == UNWRITABLE


def test_without_fonts_in_opencv_a_system_font_is_used(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    default_typeface.cache_clear()
    try:
        typeface = default_typeface()
    finally:
        default_typeface.cache_clear()

    assert isinstance(typeface, PillowTypeface)
    assert can_write("screw M4", typeface)


def test_fonts_with_chinese_are_found_before_others(tmp_path):
    for name in ("dejavu/DejaVuSans.ttf", "wqy/wqy-microhei.ttc", "noto/other.otf"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()

    assert find_font((str(tmp_path / "absent"), str(tmp_path))).name == "wqy-microhei.ttc"
    assert find_font((str(tmp_path / "noto"),)) is None


@pytest.mark.parametrize("typeface", [fonts.OpenCvTypeface(), PillowTypeface(None)], ids=["opencv", "pillow"])
def test_a_text_covers_its_width_and_nothing_right_of_it(typeface):
    canvas = np.zeros((60, 400, 3), np.uint8)
    typeface.write(canvas, "Wide screw", (10, 40), 20, (255, 255, 255))
    columns = np.nonzero(canvas.any(axis=(0, 2)))[0]

    assert 10 + typeface.width("Wide screw", 20) == pytest.approx(columns.max() + 1, abs=3)
    assert columns.min() >= 9


def test_one_line_has_no_breaks_and_no_control_characters():
    assert one_line(" a\n\tb\x00\x1b[31m  c ") == "a b [31m c"


@given(TEXTS, st.integers(30, 200), st.booleans())
def test_wrapped_rows_fit_and_hold_the_whole_text(text, width, bold):
    typeface = default_typeface()
    rows = wrap(text, width, 14, typeface, bold, max_rows=100)

    assert all(typeface.width(row, 14, bold=bold) <= width for row in rows)
    assert "".join(rows).replace(" ", "") == text.replace(" ", "")


def test_rows_break_at_spaces_where_there_are():
    typeface = default_typeface()

    assert wrap("screw missing", typeface.width("screw miss", 14), 14, typeface) == ["screw", "missing"]


@settings(max_examples=50)
@given(TEXTS, st.integers(40, 150), st.integers(1, 2))
def test_what_does_not_fit_ends_in_an_ellipsis(text, width, max_rows):
    typeface = default_typeface()
    rows = wrap(text, width, 14, typeface, max_rows=max_rows)
    cut = wrap(text, width, 14, typeface, max_rows=100) != rows

    assert len(rows) <= max_rows
    assert all(typeface.width(row, 14) <= width for row in rows)
    assert rows[-1].endswith("…") == cut


def test_a_text_that_fits_is_not_shortened():
    assert shorten("screw", 200, 14, default_typeface()) == "screw"


def test_a_block_has_one_row_per_line_of_text_and_the_badges_colour():
    typeface = default_typeface()
    lines = [TextLine("a", "1", (200, 0, 0), "missed"), TextLine("b", "2", (0, 0, 200))]
    block = text_block(lines, 300, 16, typeface)

    assert block.shape == (2 * 24, 300, 3)
    width, _ = badge_size("1", 16, typeface)
    assert (block[3:6, 1 : width - 1] == (200, 0, 0)).all()
    assert (block[27:30, 1 : width - 1] == (0, 0, 200)).all()
    assert (block[:, 200:] == PAPER).all()
    assert text_block([], 300, 16, typeface).shape == (0, 300, 3)


@pytest.mark.parametrize(("color", "dark"), [((255, 255, 0), True), ((0, 0, 120), False), ((0, 158, 115), False)])
def test_text_on_a_badge_is_dark_on_bright_and_white_on_dark_colours(color, dark):
    assert (sum(readable_on(color)) < 150) == dark
