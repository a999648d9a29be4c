"""Objects that a cut leaves partly visible get another desc, where a mapping asks for it."""

import pytest
from pydantic import ValidationError

from qcvl import config
from qcvl.augment.crop import SampleCrop
from qcvl.data.dataset import window
from tests.augment.ops import compose, op

KEY = (0, 0, 0)
MAPPING = {"显示完整": "只显示部分"}
DESC = "BBU设备/品牌:华为,显示完整"
PARTLY = "BBU设备/品牌:华为,只显示部分"


def middle(scale, **changes):
    """A crop that leaves ``scale`` of each side, as ``center_crop`` does."""
    return op("center_crop", scale=scale, **changes)


@pytest.fixture
def wide(make_sample):
    """An object as wide as the photo of 100 x 100, and one in the middle."""
    shapes = [("bbox_2d", [0, 40, 100, 60]), ("quad", [45, 45, 55, 45, 55, 55, 45, 55])]
    return make_sample(*shapes, size=(100, 100), descs=[DESC, DESC])


def test_an_object_cut_below_the_threshold_is_relabelled_and_counted(wide):
    out = compose(crop=middle(0.8), relabel=MAPPING)(wide, KEY)
    assert [note.desc for note in out.annotations] == [PARTLY, DESC]
    assert out.coverages == (0.8, 1.0)
    assert out.telemetry["relabel/changed_descs"] == 1


def test_without_a_mapping_descs_stay(wide):
    out = compose(crop=middle(0.8))(wide, KEY)
    assert [note.desc for note in out.annotations] == [DESC, DESC]
    assert "relabel/changed_descs" not in out.telemetry


@pytest.mark.parametrize(("threshold", "desc"), [(0.75, DESC), (0.85, PARTLY)])
def test_the_crops_own_threshold_decides(wide, threshold, desc):
    out = compose(crop=middle(0.8, completeness_threshold=threshold), relabel=MAPPING)(wide, KEY)
    assert out.annotations[0].desc == desc


@pytest.mark.parametrize(("threshold", "desc"), [(0.5, DESC), (0.95, PARTLY)])
def test_a_move_is_judged_by_the_pipelines_threshold(wide, threshold, desc):
    move = op("scale", min_scale=1.25, max_scale=1.25)  # 80 of 100 columns stay
    out = compose(zoom=move, relabel=MAPPING, completeness_threshold=threshold)(wide, KEY)
    assert out.annotations[0].desc == desc and out.annotations[1].desc == DESC


def test_shares_of_several_cuts_count_together(wide):
    cuts = {"first": middle(0.98), "second": middle(0.98)}  # 0.98 and then 0.96 of it
    assert compose(first=cuts["first"], relabel=MAPPING)(wide, KEY).annotations[0].desc == DESC
    strict = {name: middle(0.98, completeness_threshold=0.97) for name in cuts}
    assert compose(ops=strict, relabel=MAPPING)(wide, KEY).annotations[0].desc == PARTLY


def test_an_object_recorded_beyond_the_frame_is_left_alone_until_it_is_cut(make_sample):
    sample = make_sample(("bbox_2d", [-50, 40, 50, 60]), size=(100, 100), descs=[DESC])
    out = compose(pad=op("pad_to_multiple", multiple=64), relabel=MAPPING)(sample, KEY)
    assert out.annotations[0].desc == DESC


def test_objects_cut_by_the_window_of_a_sample_are_relabelled_too(wide):
    crops = SampleCrop(size=64, aimed_share=1.0, empty_share=0.0, min_coverage=0.1)
    cut = window(crops)(wide, KEY)
    assert cut.coverages[0] == pytest.approx(0.64) and cut.annotations[0].desc == DESC
    out = compose(relabel=MAPPING)(cut, KEY)
    assert out.annotations[0].desc == PARTLY
    assert out.telemetry["relabel/changed_descs"] == sum(share < 0.95 for share in cut.coverages)


def test_all_parts_of_a_cut_line_are_relabelled(make_sample):
    line = ("line", [30, 20, 190, 20, 190, 50, 30, 50])
    sample = make_sample(line, size=(200, 100), descs=["光纤,显示完整"])
    out = compose(crop=middle(0.8), relabel=MAPPING)(sample, KEY)
    assert [note.desc for note in out.annotations] == ["光纤,只显示部分"] * 2


def test_an_empty_token_is_refused():
    with pytest.raises(ValidationError, match="has an empty token; name what is to be replaced"):
        compose(relabel={"": "x"})


@pytest.mark.parametrize("typed", ['[["显示完整","只显示部分"]]', "{whole: partly}"])
def test_the_mapping_can_be_typed_at_the_command_line(typed):
    cfg = config.load("train", ["augment=dense", f"augment.relabel={typed}"])
    relabel = config.instantiate_settings(cfg).augment.relabel
    assert relabel in (MAPPING, {"whole": "partly"})


def test_a_mapping_in_a_file_is_read_as_written(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "# @package _global_\naugment:\n  relabel: {显示完整: 只显示部分}\n", encoding="utf-8"
    )
    cfg = config.load("train", ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert config.instantiate_settings(cfg).augment.relabel == MAPPING


def test_thresholds_are_shares():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        compose(completeness_threshold=95)
