"""Panels: numbers shared between the sides, colours by outcome, sizes, the text beside, contact sheets."""

import numpy as np
import pytest
from PIL import Image

from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation
from qcvl.viz.compare import MARGIN_PX, MAX_LEGEND, STYLES, _legend, compare, compare_panel, panel_text
from qcvl.viz.fonts import PillowTypeface
from qcvl.viz.sheet import THUMBNAIL_PX, contact_sheet, grid, save_png
from qcvl.viz.text import PAPER


def box(x1: float, y1: float, x2: float, y2: float, desc: str = "螺丝", image: int = 0) -> Annotation:
    return Annotation(Shape("bbox_2d", [x1, y1, x2, y2]), desc, image)


TRUTH = [box(10, 10, 40, 40), box(60, 60, 90, 90, "标签")]
PREDICTED = [box(60, 60, 90, 84, "标签"), box(50, 10, 60, 20), box(0, 0, 5, 5)]


def photo(width: int = 100, height: int = 100) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def panel_of(truth, predicted, caption: str = "", size=(100, 100), **changes) -> np.ndarray:
    return compare_panel(photo(*size), compare(truth, predicted, size), caption, **changes)


def has_color(picture: np.ndarray, outcome: str) -> bool:
    return bool((picture == STYLES[outcome].color).all(axis=-1).any())


def test_a_found_object_has_one_number_on_both_sides_and_false_alarms_count_on():
    comparison = compare(TRUTH, PREDICTED, (100, 100))

    assert [(e.number, e.outcome) for e in comparison.truth] == [(1, "missed"), (2, "found")]
    assert [(e.number, e.outcome) for e in comparison.predicted] == [
        (2, "found"),
        (3, "false alarm"),
        (4, "false alarm"),
    ]
    assert comparison.predicted[0].overlap == pytest.approx(24 / 30)


def test_a_further_prediction_of_a_found_object_is_a_duplicate_with_its_number_and_overlap():
    again, other_desc, barely = box(60, 60, 90, 78, "标签"), box(60, 60, 90, 90), box(60, 60, 90, 74, "标签")
    comparison = compare(TRUTH, [again, TRUTH[1], other_desc, barely], (100, 100))

    assert [(e.number, e.outcome) for e in comparison.predicted] == [
        (2, "duplicate"),
        (2, "found"),  # the best prediction finds, wherever it stands in the answer
        (3, "false alarm"),  # another desc
        (4, "false alarm"),  # 14 of 30 px
    ]
    assert [e.overlap for e in comparison.predicted] == [pytest.approx(18 / 30), 1.0, None, None]
    counts = comparison.counts
    assert (counts.tp, counts.fp, counts.fn, comparison.errors) == (1, 3, 1, 4)
    assert comparison.sides[1][1] == "4 objects: 1 found, 2 false alarms, 1 duplicate"


def test_a_duplicate_of_two_overlapping_objects_repeats_the_one_it_overlaps_most():
    truth = [box(0, 0, 10, 10), box(0, 2, 10, 12)]
    comparison = compare(truth, [*truth, box(0, 1.5, 10, 11.5)], (100, 100))

    assert [(e.number, e.outcome) for e in comparison.predicted] == [(1, "found"), (2, "found"), (2, "duplicate")]


def test_without_a_threshold_only_what_touches_is_a_duplicate():
    comparison = compare(TRUTH[:1], [TRUTH[0], box(20, 20, 60, 60), box(70, 70, 80, 80)], (100, 100), threshold=0)

    assert [e.outcome for e in comparison.predicted] == ["found", "duplicate", "false alarm"]


def test_outcomes_differ_in_colour_for_any_colour_vision_and_in_strokes_on_a_side():
    # Viénot, Brettel and Mollon (1999): linear RGB as a reader without red or green cones sees it.
    blindness = {
        "none": np.eye(3),
        "protan": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
        "deutan": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    }
    for seen in blindness.values():
        colors = [
            255 * (seen @ (np.array(style.color) / 255) ** 2.2).clip(0, 1) ** (1 / 2.2) for style in STYLES.values()
        ]
        assert min(np.abs(a - b).max() for i, a in enumerate(colors) for b in colors[:i]) > 30
    for side in (("found", "missed"), ("found", "false alarm", "duplicate")):
        assert len({STYLES[outcome].pattern for outcome in side}) == len(side)


def test_titles_count_the_outcomes():
    (_, truth, _), (_, predicted, _) = compare(TRUTH, PREDICTED, (100, 100)).sides

    assert truth == "2 objects: 1 found, 1 missed"
    assert predicted == "3 objects: 1 found, 2 false alarms"
    assert [title for _, title, _ in compare(TRUTH[:1], [], (9, 9)).sides] == ["1 object: 1 missed", "no objects"]


def test_only_the_objects_of_the_asked_image_are_compared():
    truth = [box(0, 0, 5, 5, image=1), box(0, 0, 5, 5, "a")]
    comparison = compare(truth, [box(0, 0, 5, 5, image=1)], (100, 100), image_index=1)

    assert [(e.number, e.outcome) for e in comparison.truth] == [(1, "found")]
    assert len(comparison.predicted) == 1


@pytest.mark.parametrize(
    ("truth", "predicted", "outcomes"),
    [
        (TRUTH, TRUTH, {"found"}),
        (TRUTH, [], {"missed"}),
        ([], TRUTH, {"false alarm"}),
        (TRUTH, PREDICTED, {"found", "missed", "false alarm"}),
        (TRUTH, [*TRUTH, TRUTH[0]], {"found", "duplicate"}),
        ([], [], set()),
    ],
)
def test_a_panel_shows_the_colours_of_its_outcomes_and_no_other(truth, predicted, outcomes):
    panel = panel_of(truth, predicted, "caption")

    assert {outcome for outcome in STYLES if has_color(panel, outcome)} == outcomes


def test_truth_stands_left_and_prediction_right():
    panel = panel_of(TRUTH, [], "caption")
    half = panel.shape[1] // 2

    assert has_color(panel[:, :half], "missed")
    assert not has_color(panel[:, half:], "missed")


@pytest.mark.parametrize(
    ("size", "picture"),
    [((100, 100), 320), ((200, 100), 640), ((640, 480), 640), ((2048, 1024), 1024), ((40, 400), 320)],
)
def test_small_photos_grow_to_320_px_and_large_ones_shrink_to_1024(size, picture):
    panel = panel_of([], [], size=size)

    assert panel.dtype == np.uint8
    assert panel.shape[1] == 2 * picture + 3 * MARGIN_PX


def test_a_caption_adds_height_and_keeps_the_picture():
    bare, captioned = (panel_of(TRUTH, PREDICTED, caption) for caption in ("", "提示: 检测所有目标"))

    assert captioned.shape[0] > bare.shape[0]
    assert np.array_equal(captioned[-bare.shape[0] + MARGIN_PX :], bare[MARGIN_PX:])


def test_a_panel_can_be_drawn_without_a_font_for_its_texts():
    panel = panel_of(TRUTH, PREDICTED, "提示", typeface=PillowTypeface(None))

    assert has_color(panel, "missed")


def test_the_text_beside_the_panel_holds_every_object():
    text = panel_text(compare(TRUTH, PREDICTED, (100, 100)), "val 17")

    assert text.splitlines() == [
        "val 17",
        "truth: 2 objects: 1 found, 1 missed",
        "  1  螺丝  [missed]  bbox_2d 10.0 10.0 40.0 40.0",
        "  2  标签  [found]  bbox_2d 60.0 60.0 90.0 90.0",
        "prediction: 3 objects: 1 found, 2 false alarms",
        "  2  标签  [IoU 0.80]  bbox_2d 60.0 60.0 90.0 84.0",
        "  3  螺丝  [false alarm]  bbox_2d 50.0 10.0 60.0 20.0",
        "  4  螺丝  [false alarm]  bbox_2d 0.0 0.0 5.0 5.0",
    ]


def test_the_text_says_which_object_a_duplicate_repeats():
    lines = panel_text(compare(TRUTH, [TRUTH[1], TRUTH[1]], (100, 100))).splitlines()

    assert lines[-3:] == [
        "prediction: 2 objects: 1 found, 1 duplicate",
        "  2  标签  [IoU 1.00]  bbox_2d 60.0 60.0 90.0 90.0",
        "  2  标签  [duplicate, IoU 1.00]  bbox_2d 60.0 60.0 90.0 90.0",
    ]


def test_a_long_legend_lists_errors_first_and_says_how_many_it_leaves_out():
    many = [box(0, y, 10, y + 1, f"pin {y}") for y in range(30)]
    (_, _, entries), _ = compare(many, many[:-1], (100, 100)).sides
    lines = _legend(entries)

    assert lines[0].text == "pin 29"
    assert len(lines) == MAX_LEGEND + 1
    assert lines[-1].text == f"and {30 - MAX_LEGEND} more"


def test_a_contact_sheet_puts_pictures_in_rows_of_equal_columns():
    first, second, third = (np.full((height, width, 3), value, np.uint8) for height, width, value in
                            ((4, 6, 10), (8, 2, 20), (3, 3, 30)))  # fmt: skip
    sheet = grid([first, second, third], columns=2, margin=1)

    assert sheet.shape == (1 + 8 + 1 + 3 + 1, 1 + 6 + 1 + 2 + 1, 3)
    assert (sheet[1:5, 1:7] == 10).all()
    assert (sheet[1:9, 8:10] == 20).all()
    assert (sheet[10:13, 1:4] == 30).all()
    pictures = 4 * 6 + 8 * 2 + 3 * 3
    assert (sheet == PAPER).all(axis=-1).sum() == sheet.shape[0] * sheet.shape[1] - pictures


def test_a_contact_sheet_shrinks_wide_pictures_and_has_four_columns():
    wide, small = np.zeros((100, 960, 3), np.uint8), np.zeros((50, 100, 3), np.uint8)
    sheet = contact_sheet([wide, small, small, small, small])
    assert sheet.shape[1] == THUMBNAIL_PX + 3 * 100 + 5 * MARGIN_PX
    assert sheet.shape[0] == 50 + 50 + 3 * MARGIN_PX


@pytest.mark.parametrize(("count", "columns"), [(0, 2), (2, 0)])
def test_a_contact_sheet_of_nothing_is_refused(count, columns):
    with pytest.raises(ValueError, match=f"found {count} and {columns}"):
        grid([photo()] * count, columns)


def test_a_saved_picture_reads_back_the_same(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = save_png(tmp_path / "预览" / "a.png", image)

    assert np.array_equal(np.asarray(Image.open(path)), image)
