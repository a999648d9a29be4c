"""CVAT for images 1.1 by its definition; XML that is broken or more than XML is refused."""

import math

import numpy as np
import pytest

from qcvl.errors import RecordError

XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><name>boards &amp; parts</name></task></meta>
  <image id="0" name="a.png" width="100" height="50">
    {}
  </image>
</annotations>
"""
BOX = '<box label="cable" source="manual" occluded="0" xtl="10" ytl="20" xbr="40.5" ybr="30" z_order="0">{}</box>'


def cvat(*shapes):
    return XML.format("\n    ".join(shapes))


def test_boxes_polygons_and_lines_with_their_attributes(read, write, photo, note):
    photo("images/a.png")
    attributes = '<attribute name="colour">red</attribute><attribute name="note"></attribute>'
    path = write(
        "annotations.xml",
        cvat(
            BOX.format(attributes + '<attribute name="state"> bent &lt;2 </attribute>'),
            '<polygon label="plate" occluded="0" points="1.5,1;9,1;9,7;1,7" z_order="0"></polygon>',
            '<polygon label="plate" points="1,1;9,1;4,7"/>',
            '<polyline label="wire" points="0,0;5,5;9,0"/>',
        ),
    )
    (record,), notices = read("cvat", path)
    assert record.annotations == (
        note("bbox_2d", [[10, 20], [40.5, 30]], "cable/colour:red,state:bent <2"),
        note("quad", [[1.5, 1], [9, 1], [9, 7], [1, 7]], "plate"),
        note("poly", [[1, 1], [9, 1], [4, 7]], "plate"),
        note("line", [[0, 0], [5, 5], [9, 0]], "wire"),
    )
    assert record.sizes == ((100, 50),) and record.images[0].endswith("images/a.png") and notices == []
    assert read("cvat", path.parent)[0] == [record]


def test_a_turned_box_is_the_quad_turned_clockwise_about_its_centre(read, write, photo):
    photo("a.png")
    turned = '<box label="plate" xtl="30" ytl="20" xbr="70" ybr="30" rotation="{}"/>'
    (record,), _ = read("cvat", write("annotations.xml", cvat(*(turned.format(angle) for angle in (90, 30, 360)))))
    quarter, tilted, whole = (item.shape for item in record.annotations)
    assert whole.kind == "bbox_2d" and quarter.kind == tilted.kind == "quad"
    # clockwise on the screen: the top left corner goes to the top right
    np.testing.assert_allclose(quarter.points, [[55, 5], [55, 45], [45, 45], [45, 5]], atol=1e-9)
    sides = np.linalg.norm(np.roll(tilted.points, -1, axis=0) - tilted.points, axis=1)
    np.testing.assert_allclose(sides, [40, 10, 40, 10])
    np.testing.assert_allclose(tilted.points.mean(axis=0), [50, 25])
    right = tilted.points[1] - tilted.points[0]
    assert math.degrees(math.atan2(right[1], right[0])) == pytest.approx(30)  # y down: clockwise is positive


def test_tags_and_subsets_are_metadata_and_the_rest_is_said(read, write, photo):
    photo("images/Train/a.png")
    shapes = (
        '<tag label="fail" source="manual"></tag>',
        BOX.replace('occluded="0"', 'occluded="1" group_id="4"').format(""),
        '<points label="hole" points="5,5"/>',
        '<skeleton label="hand"><points label="1" points="5,5"/></skeleton>',
        '<box label="line" xtl="5" ytl="5" xbr="5" ybr="9"/>',
    )
    path = write("annotations.xml", cvat(*shapes).replace('id="0"', 'id="0" subset="Train"'))
    (record,), notices = read("cvat", path)
    assert record.metadata == {"tags": ["fail"], "subset": "Train"} and record.images[0].endswith("images/Train/a.png")
    assert [(reason, where.removeprefix(str(path))) for reason, where in notices] == [
        ("occluded of a shape", ":7: <box>"),
        ("group_id of a shape", ":7: <box>"),
        ("shape of type points", ":8: <points>"),
        ("shape of type skeleton", ":9: <skeleton>"),
        ("box without area", ":10: <box>"),
    ]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (BOX.replace('xtl="10" ', "").format(""), "<box>.xtl is missing"),
        (BOX.replace('"10"', '"ten"').format(""), "<box>.xtl is the string 'ten'; expected a number"),
        (BOX.replace('"10"', '"NaN"').format(""), "<box>.xtl is the string 'NaN'; expected a finite number"),
        (BOX.replace('"10"', '"60"').format(""), "<box> has corners 60, 20 and 40.5, 30; expected xtl <= xbr"),
        (BOX.replace('label="cable"', "").format(""), "<box>.label is missing"),
        ('<polygon label="a" points="1,1;9;4,7"/>', "<polygon>.points[1] has 1 numbers; expected 2"),
        ('<polygon label="a" points="1,1;9,x;4,7"/>', "<polygon>.points[1][1] is the string 'x'; expected a number"),
    ],
)
def test_a_broken_shape_is_refused_by_line_and_field(read, write, photo, shape, message):
    photo("a.png")
    path = write("annotations.xml", cvat(shape))
    with pytest.raises(RecordError) as caught:
        read("cvat", path)
    assert str(caught.value).startswith(f"{path}:6: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1: is not well-formed XML \(no element found"),
        ("<annotations><image></annotations>", r":1: is not well-formed XML \(mismatched tag at column 22\)"),
        ("<other/>", ":1: <other> is <other>; expected <annotations>"),
        (cvat().replace('width="100"', ""), ":5: <image>.width is missing"),
        (cvat().replace('width="100"', 'width="-4"'), ":5: <image>.width is the string '-4'; expected a whole number"),
        ('<annotations><track id="0" label="a"/></annotations>', ":1: <track> is a track of CVAT for video"),
        (
            '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><annotations>&z;</annotations>',
            ":1: declares a document type; CVAT writes none, and entities are not expanded",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', ":1: declares a document type"),
    ],
)
def test_xml_that_is_broken_or_no_cvat_is_refused(read, write, text, message):
    path = write("annotations.xml", text)
    with pytest.raises(RecordError, match=f"{path}{message}"):
        read("cvat", path)


def test_a_missing_file_is_named(read, tmp_path):
    with pytest.raises(RecordError, match=r"annotations\.xml: cannot be read \(No such file"):
        read("cvat", tmp_path)
