"""The dense answer both ways: its exact text, the way back within the grid, and texts that do not obey."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.geometry.grid import grid_limits, settle_on_grid
from qcvl.geometry.norm import canonical
from qcvl.geometry.shapes import Shape
from qcvl.schema import Annotation, AnswerFormat, Record, parse_answer, render_answer
from qcvl.schema.answer import (
    DEFAULT_FORMAT,
    parse_summaries,
    parse_summary,
    render_summaries,
    render_summary,
    sort_annotations,
)

SIZE = (1000, 1000)  # grid points of norm1000 are its pixels


def answer_format(**changes):
    return AnswerFormat(
        **{
            "emit_norm": "norm1000",
            "step": 1,
            "order": "reference",
            "key_order": "geometry_first",
            "points": "flat",
            "form": "objects",
            **changes,
        }
    )


def box(x1, y1, x2, y2, desc="x", image=0):
    return Annotation(Shape("bbox_2d", [x1, y1, x2, y2]), desc, image)


DESIGN_ANNOTATIONS = [
    Annotation(Shape("line", [180, 220, 130, 180, 80, 260, 50, 300]), "光纤/颜色:黄色"),
    box(100, 200, 300, 400, "BBU设备/品牌:华为"),
]


def test_the_dense_answer_is_the_text_of_the_design():
    assert render_answer(DESIGN_ANNOTATIONS, SIZE) == (
        '{"object_1": {"bbox_2d": [100, 200, 300, 400], "desc": "BBU设备/品牌:华为"}, '
        '"object_2": {"line_points": 4, "line": [50, 300, 80, 260, 130, 180, 180, 220], "desc": "光纤/颜色:黄色"}}'
    )


def test_pairs_and_description_first_and_the_list_are_formats():
    assert render_answer(DESIGN_ANNOTATIONS[:1], SIZE, answer_format=answer_format(points="pairs")) == (
        '{"object_1": {"line_points": 4, "line": [[50, 300], [80, 260], [130, 180], [180, 220]], '
        '"desc": "光纤/颜色:黄色"}}'
    )
    assert render_answer(DESIGN_ANNOTATIONS[1:], SIZE, answer_format=answer_format(key_order="desc_first")) == (
        '{"object_1": {"desc": "BBU设备/品牌:华为", "bbox_2d": [100, 200, 300, 400]}}'
    )
    assert render_answer(DESIGN_ANNOTATIONS[1:], SIZE, answer_format=answer_format(form="list")) == (
        '[{"bbox_2d": [100, 200, 300, 400], "label": "BBU设备/品牌:华为"}]'
    )


def test_no_objects_is_an_empty_object_or_list_and_reads_back_strictly():
    assert render_answer([], SIZE) == "{}"
    assert render_answer([], SIZE, answer_format=answer_format(form="list")) == "[]"
    assert parse_answer("{}", SIZE) == parse_answer(" []\n", SIZE)
    assert parse_answer("{}", SIZE).status == "strict"


def test_a_polygon_says_its_count_and_starts_at_its_canonical_vertex():
    poly = Annotation(Shape("poly", [[60, 60], [10, 60], [10, 10], [60, 10], [80, 30]]), "plate")
    assert '{"poly_points": 5, "poly": [10, 10, 60, 10, 80, 30, 60, 60, 10, 60], "desc"' in render_answer([poly], SIZE)
    kept = render_answer([poly], SIZE, keep_vertex_order=True)
    assert '"poly": [60, 60, 10, 60, 10, 10, 60, 10, 80, 30]' in kept


def test_norms_round_half_up_and_never_leave_the_grid():
    half = box(0.5, 1.5, 199.5, 100)  # on a 200 x 100 image
    expected = {"norm1000": [3, 15, 998, 1000], "norm100": [0, 2, 100, 100], "none": [1, 2, 200, 100]}
    for norm, numbers in expected.items():
        text = render_answer([half], (200, 100), answer_format=answer_format(emit_norm=norm))
        assert json.loads(text)["object_1"]["bbox_2d"] == numbers


def test_a_box_that_collapses_keeps_one_cell():
    for x in (0.0, 0.1, 500.0, 3999.9):
        text = render_answer([box(x, x, x + 0.05, x + 0.05)], (4000, 4000))
        x1, y1, x2, y2 = json.loads(text)["object_1"]["bbox_2d"]
        assert (x2 - x1, y2 - y1) == (1, 1) and x1 >= 0 and x2 <= 1000


def test_objects_are_sorted_by_their_floats_not_by_their_grid_points():
    upper, lower = box(500, 10.2, 900, 300, "upper"), box(0, 10.4, 400, 300, "lower")  # both y = 3 on the grid
    text = render_answer([lower, upper], (4000, 4000))
    assert text.index("upper") < text.index("lower")


def test_order_center_differs_from_order_reference():
    tall, flat = box(0, 0, 10, 900, "tall"), box(0, 100, 10, 120, "flat")
    by_reference = render_answer([flat, tall], SIZE)
    by_center = render_answer([flat, tall], SIZE, answer_format=answer_format(order="center"))
    assert by_reference.index("tall") < by_reference.index("flat")
    assert by_center.index("flat") < by_center.index("tall")


def test_several_images_are_named_and_each_has_its_own_grid():
    items = [box(0, 0, 50, 50, "b", image=1), box(0, 90, 50, 100, "a", image=0)]
    sizes = [(100, 100), (50, 50)]
    text = render_answer(items, sizes, image_count=2)
    assert text == (
        '{"object_1": {"image": 0, "bbox_2d": [0, 900, 500, 1000], "desc": "a"}, '
        '"object_2": {"image": 1, "bbox_2d": [0, 0, 1000, 1000], "desc": "b"}}'
    )
    answer = parse_answer(text, sizes)
    assert (answer.status, list(answer.annotations)) == ("strict", [items[1], items[0]])
    assert "image" not in render_answer(items[1:], (100, 100))
    with pytest.raises(DataError, match="lies in image 1 but 1 image sizes"):
        render_answer(items, (100, 100))
    assert parse_answer(text, (100, 100)).dropped == 1


def test_an_unresolved_grid_is_an_error_and_resolving_leaves_other_grids_alone():
    auto = answer_format(emit_norm="auto")
    with pytest.raises(ConfigError, match="emit_norm=auto is not resolved"):
        render_answer([box(0, 0, 1, 1)], SIZE, answer_format=auto)
    assert auto.resolved("none").grid == "none"
    assert DEFAULT_FORMAT.resolved("none") == DEFAULT_FORMAT


texts = st.text(st.characters(exclude_categories=("Cs",)))
formats = st.builds(
    answer_format,
    emit_norm=st.sampled_from(["norm1000", "norm100", "none"]),
    order=st.sampled_from(["reference", "center"]),
    key_order=st.sampled_from(["geometry_first", "desc_first"]),
    points=st.sampled_from(["flat", "pairs"]),
    form=st.sampled_from(["objects", "list"]),
)


@st.composite
def scenes(draw):
    """Sizes of one or two images and annotations inside them with distinct descriptions."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=2))
    items = []
    for number in range(draw(st.integers(0, 6))):
        image = draw(st.integers(0, len(sizes) - 1))
        width, height = sizes[image]
        point = st.tuples(st.floats(0, width), st.floats(0, height))
        kind = draw(st.sampled_from(["bbox_2d", "quad", "poly", "line"]))
        low, high = {"bbox_2d": (2, 2), "quad": (4, 4), "poly": (3, 9), "line": (2, 9)}[kind]
        points = draw(st.lists(point, min_size=low, max_size=high, unique=True))
        items.append(Annotation(Shape(kind, points), f"{number}{draw(texts)}", image))
    return sizes, items


@given(scenes(), formats, st.booleans())
def test_what_is_rendered_parses_back_within_half_a_grid_cell(scene, form, by_image):
    sizes, items = scene
    text = render_answer(items, sizes, answer_format=form, by_image=by_image)
    answer = parse_answer(text, sizes, answer_format=form)
    assert (answer.status, answer.dropped) == ("strict", 0)
    assert text.isprintable() or "\n" not in text
    back = {item.desc: item for item in answer.annotations}
    assert len(answer.annotations) == len(items) == len(back)
    for item in items:
        found, wanted = back[item.desc], canonical(item.shape)
        assert (found.image, found.shape.kind) == (item.image, item.shape.kind)
        cell = np.array(sizes[item.image]) / grid_limits(sizes[item.image], form.grid)
        if settle_on_grid(wanted, sizes[item.image], form.grid)[1]:  # collapsed: opened to one cell
            error = np.abs(np.reshape(found.shape.bounds, (2, 2)) - np.reshape(wanted.bounds, (2, 2)))
            assert np.all(error <= 1.5 * cell + 1e-9)
        else:
            assert np.all(np.abs(found.shape.points - wanted.points) <= 0.5 * cell + 1e-9)


@given(scenes(), formats, st.booleans())
def test_objects_stand_in_reading_order_of_the_floats(scene, form, by_image):
    sizes, items = scene
    text = render_answer(items, sizes, answer_format=form, by_image=by_image)
    answer = parse_answer(text, sizes, answer_format=form)

    def key(item):
        shape = canonical(item.shape)
        (x1, y1), (x2, y2) = shape.points.min(axis=0), shape.points.max(axis=0)
        x, y = shape.points[0] if form.order == "reference" else ((x1 + x2) / 2, (y1 + y2) / 2)
        return item.image, y, x

    assert [item.desc for item in answer.annotations] == [item.desc for item in sorted(items, key=key)]
    assert [item.desc for item in sort_annotations(items, form.order)] == [item.desc for item in answer.annotations]


@given(scenes(), formats, st.booleans(), st.data())
def test_a_cut_answer_is_truncated_and_keeps_exactly_its_complete_objects(scene, form, by_image, data):
    sizes, items = scene
    text = render_answer(items, sizes, answer_format=form, by_image=by_image)
    whole = parse_answer(text, sizes, answer_format=form).annotations
    cut = data.draw(st.integers(1, len(text) - 1))
    answer = parse_answer(text[:cut], sizes, answer_format=form)
    assert answer.status == "truncated"
    ends = [text.index(json.dumps(item, ensure_ascii=False)) for item in _raw_objects(text, by_image)]
    sizes_of = [len(json.dumps(item, ensure_ascii=False)) for item in _raw_objects(text, by_image)]
    complete = sum(end + size <= cut for end, size in zip(ends, sizes_of, strict=True))
    assert answer.annotations == whole[:complete]


def _raw_objects(text, by_image):
    parts = json.loads(text).values() if by_image else [json.loads(text)]
    return [item for part in parts for item in (part if isinstance(part, list) else part.values())]


KEYED = '{"image_1": {"object_1": {"bbox_2d": [0, 900, 500, 1000], "desc": "a"}}, "image_2": {}, "image_3": {}}'


def test_photos_of_several_records_have_an_answer_each():
    items, sizes = [box(0, 90, 50, 100, "a"), box(0, 0, 50, 50, "b", image=2)], [(100, 100), (9, 9), (50, 50)]
    assert render_answer(items[:1], sizes, by_image=True) == KEYED
    text = render_answer(items, sizes, by_image=True, answer_format=answer_format(form="list"))
    assert text == (
        '{"image_1": [{"bbox_2d": [0, 900, 500, 1000], "label": "a"}], "image_2": [], '
        '"image_3": [{"bbox_2d": [0, 0, 1000, 1000], "label": "b"}]}'
    )
    assert render_answer([], sizes, by_image=True) == '{"image_1": {}, "image_2": {}, "image_3": {}}'
    assert parse_answer('{"image_1": {}, "image_2": []}', sizes[:2]) == parse_answer("{}", sizes[:2])


@pytest.mark.parametrize(
    ("text", "status", "images"),
    [
        (KEYED, "strict", [0]),
        (f"```json\n{KEYED}\n```", "repaired", [0]),
        (KEYED.replace("image_1", "image_4").replace("image_2", "image_1"), "repaired", []),  # there is no fourth
        (KEYED.replace(', "image_3": {}', ""), "repaired", [0]),  # says nothing about the third
        (KEYED.replace('"image_2": {}', '"image_2": {"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "b"}'), "truncated",
         [0, 1]),
        ('{"image_3": {"bbox_2d": [1, 2, 3, 4], "desc": "b"}, "image_1": {}, "image_2": {}}', "repaired", [2]),
        ("{'image_2': [{'bbox_2d': [1, 2, 3, 4], 'label': 'b'}], 'image_3': [{'bbox_2d': [1, 2, 3, 4], 'label': 'c'}]}",
         "repaired", [1, 2]),
        ('{"image_1": {"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "b", "image": 1}}, "image_2": {}, "image_3": {}}',
         "repaired", [0]),  # the key it stands under counts
        ('{"image_1": "two screws", "image_2": "", "image_3": ""}', "failed", []),
    ],
)  # fmt: skip
def test_an_object_lies_in_the_image_whose_key_it_stands_under(text, status, images):
    answer = parse_answer(text, [(100, 100)] * 3)
    assert (answer.status, [note.image for note in answer.annotations]) == (status, images)


@given(st.lists(texts, min_size=1, max_size=4))
def test_summaries_of_several_photos_come_back_exactly(summaries):
    text = render_summaries(summaries)
    assert parse_summaries(f" {text}\n", len(summaries)) == tuple(summaries)
    assert parse_summaries(text[:-1], 2) == (None, None)


def test_a_photo_that_an_answer_has_no_summary_of_has_none():
    assert render_summaries(["光模块×3", "a"]) == '{"image_1": "光模块×3", "image_2": "a"}'
    assert parse_summaries('{"image_2": "a", "image_1": 3, "image_9": "b"}', 3) == (None, "a", None)
    assert parse_summaries("two screws", 1) == parse_summaries('["a"]', 1) == (None,)


@pytest.mark.parametrize(
    "desc", ["<answer>", "</think>", "a}, {b}]", '{"bbox_2d": [0, 0, 1, 1]}', '5" [<|im_end|>', "```"]
)
def test_hostile_descriptions_are_only_text(desc):
    items = (box(1, 2, 3, 4, desc), box(5, 6, 7, 8, desc))
    text = render_answer(items, SIZE)
    assert (parse_answer(text, SIZE).status, parse_answer(text, SIZE).annotations) == ("strict", items)
    cut = parse_answer(text[:-4], SIZE)  # inside the second description
    assert (cut.status, cut.annotations) == ("truncated", items[:1])


def test_parsing_never_sorts():
    text = (
        '{"object_1": {"bbox_2d": [5, 900, 9, 950], "desc": "low"}, "object_2": {"line": [9, 9, 1, 1], "desc": "high"}}'
    )
    answer = parse_answer(text, SIZE)
    assert [item.desc for item in answer.annotations] == ["low", "high"]
    assert answer.annotations[1].shape.points.tolist() == [[9, 9], [1, 1]]


GOOD = '{"bbox_2d": [1, 2, 3, 4], "desc": "a"}'
ALSO = '{"line": [5, 6, 7, 8], "label": "b"}'


@pytest.mark.parametrize(
    ("text", "status", "kept", "dropped"),
    [
        (f"[{GOOD}, {ALSO}]", "strict", "ab", 0),
        (f'{{"object_1": {GOOD}, "object_2": {ALSO}}}\n', "strict", "ab", 0),
        ('[{"bbox_2d": [[1, 2], [3, 4]], "desc": "a"}]', "strict", "a", 0),
        (f"```json\n[{GOOD}]\n```", "repaired", "a", 0),
        ("```json\n{}\n```", "repaired", "", 0),
        (f"[{GOOD}]<|im_end|>", "repaired", "a", 0),
        (f"Here they are: [{GOOD}, {ALSO}] Done.", "repaired", "ab", 0),
        (GOOD, "repaired", "a", 0),
        (f'{{"objects": [{GOOD}]}}', "repaired", "a", 0),
        ('{"objects": []}', "repaired", "", 0),
        (f'{{"object_1": {GOOD}, "object_1": {ALSO}}}', "repaired", "ab", 0),
        (f'{{"object_1": {GOOD}, "object_3": {ALSO}}}', "repaired", "ab", 0),
        (f'[{GOOD}, {{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [5, 6, 7, 8], "desc": "twice"}}]', "repaired", "a", 1),
        (f'[{GOOD}, {{"line": [5, 6, 7], "desc": "odd"}}]', "repaired", "a", 1),
        (f'[{GOOD}, {{"bbox_2d": [9, 9, 1, 1], "desc": "inverted"}}]', "repaired", "a", 1),
        (f'[{GOOD}, {{"line_points": 3, "line": [5, 6, 7, 8], "desc": "miscounted"}}]', "repaired", "a", 1),
        (f'[{GOOD}, {{"bbox_2d": [1, 2, 3, 4], "quad": [1, 1, 2, 1, 2, 2, 1, 2], "desc": "two"}}]', "repaired", "a", 1),
        (f'[{GOOD}, {{"desc": "nowhere"}}]', "repaired", "a", 1),
        (f'[{GOOD}, {{"bbox_2d": [1, 2, 3, 4], "desc": "b", "score": 0.9}}]', "repaired", "ab", 0),
        ('[{"bbox_2d": [1, 2, 3, 1e999], "desc": "x"}]', "repaired", "", 1),
        ("[{'bbox_2d': [1, 2, 3, 4], 'desc': 'a'}]", "repaired", "a", 0),
        ("[{'bbox_2d': [1, 2, 3, 4], 'bbox_2d': [5, 6, 7, 8], 'desc': 'a'}]", "failed", "", 0),
        ('[{"bbox_2d": [1, 2, 3, 4], "desc": "a",},]', "repaired", "a", 0),
        (f"[{GOOD}, {ALSO}", "truncated", "ab", 0),
        (f"[{GOOD}, {ALSO[:-9]}", "truncated", "a", 0),
        (f'[{GOOD}, {{"bbox_2d": [1, 2, 3, 4], "desc": "a]', "truncated", "a", 0),
        ("<think>the first box is " + GOOD, "truncated", "", 0),
        (f"<think>maybe {ALSO}?</think>[{GOOD}]", "repaired", "a", 0),
        ("", "failed", "", 0),
        ("no objects", "failed", "", 0),
        ("[1, 2, 3, 4]", "failed", "", 0),
        ("null", "failed", "", 0),
        ('{"verdict": "pass"}', "failed", "", 0),
        ('[{"bbox": [1, 2, 3, 4], "desc": "a"}]', "failed", "", 1),
    ],
)
def test_the_status_says_how_a_text_obeyed(text, status, kept, dropped):
    answer = parse_answer(text, SIZE)
    assert (answer.status, "".join(item.desc for item in answer.annotations), answer.dropped) == (status, kept, dropped)


def test_an_object_without_a_description_keeps_its_place_and_coordinates_outside_stay():
    answer = parse_answer('[{"bbox_2d": [-5, 2, 1200, 4]}]', (500, 100))
    assert (answer.status, answer.annotations) == ("repaired", (box(-2.5, 0.2, 600, 0.4, ""),))


@given(
    st.lists(
        st.sampled_from(list('{}[]",:') + ['"bbox_2d"', "'", "[1, 2, 3, 4]", "：", "，", "\\", "1e999", "9" * 5000])
    )
)
def test_no_text_makes_parsing_raise(parts):
    assert parse_answer("".join(parts), SIZE).status in ("strict", "repaired", "truncated", "failed")


def test_deep_nesting_is_no_answer_and_no_crash():
    assert parse_answer("[" * 5000, SIZE).status == "truncated"
    assert parse_answer("[" * 5000 + "]" * 5000, SIZE).status == "failed"


def test_a_summary_is_copied_exactly_and_a_missing_one_names_the_record():
    record = Record(images=("a.jpg",), summary="BBU设备×1，光模块×3 ", path="train.jsonl", line=3)
    assert render_summary(record) == "BBU设备×1，光模块×3 "
    assert parse_summary("  BBU设备×1，光模块×3 \n") == "BBU设备×1，光模块×3"
    with pytest.raises(RecordError, match=r"train\.jsonl:3: summary is missing; summary sampling needs one"):
        render_summary(Record(images=("a.jpg",), path="train.jsonl", line=3))


@pytest.mark.parametrize(("step", "expected"), [(1, [123, 457, 789, 994]), (10, [120, 460, 790, 990])])
def test_a_step_rounds_to_multiples_of_grid_cells(step, expected):
    text = render_answer([box(123.4, 456.6, 789.1, 994.4)], SIZE, answer_format=answer_format(step=step))
    assert json.loads(text)["object_1"]["bbox_2d"] == expected


def test_a_step_keeps_the_frame_and_never_collapses_a_shape():
    coarse = answer_format(step=50)
    full, thin = (
        render_answer([box(*b)], SIZE, answer_format=coarse) for b in ((0, 0, 1000, 1000), (501, 10, 503, 990))
    )
    assert json.loads(full)["object_1"]["bbox_2d"] == [0, 0, 1000, 1000]
    x1, y1, x2, y2 = json.loads(thin)["object_1"]["bbox_2d"]
    assert (x2 - x1, y1, y2) == (50, 0, 1000) and x1 <= 501 <= x2


@pytest.mark.parametrize(("emit_norm", "step"), [("norm1000", 3), ("norm100", 40), ("none", 2), ("auto", 10)])
def test_a_step_that_does_not_divide_the_grid_is_refused(emit_norm, step):
    with pytest.raises(ConfigError, match=rf"answer\.step: {step} does not divide the grid of emit_norm={emit_norm}"):
        answer_format(emit_norm=emit_norm, step=step)
