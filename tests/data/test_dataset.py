"""Samples by (epoch, index), and the row they are laid in."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from qcvl.data.batch import collate, step_counts
from qcvl.data.chat import IGNORE
from qcvl.data.dataset import CLASS_LIMIT, OpenSource, class_table, open_source
from qcvl.errors import DataError, RecordError
from qcvl.geometry.shapes import Shape
from qcvl.models.pixels import seen_size, to_patches
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation
from tests.augment.ops import compose, op
from tests.conftest import photo

ROW = ("input_ids", "labels", "mm_token_type_ids")


@pytest.fixture
def dataset(make_datamodule):
    return make_datamodule().train_dataset()


def equal(first, second) -> bool:
    """Whether two encoded samples hold the same arrays."""
    names = ("input_ids", "labels", "label_kinds", "token_types", "positions", "patches", "grids")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def test_equal_keys_give_equal_features_in_any_order(dataset, make_datamodule):
    keys = [(epoch, index) for epoch in (1, 0, 2) for index in (3, 19, 0)]
    forward = {key: dataset[key] for key in keys}
    other = make_datamodule().train_dataset()
    assert all(equal(other[key], forward[key]) for key in reversed(keys))


def test_a_records_task_may_change_from_epoch_to_epoch(dataset):
    tasks = {dataset.sample((epoch, 4))[0].task for epoch in range(20)}
    assert tasks == {"dense", "summary"}


def test_samples_come_from_the_sources_in_order_each_with_where_it_stands(dataset, scenes):
    assert len(dataset) == 20
    where = [dataset.sample((0, index))[2] for index in range(20)]
    assert where == [f"{scenes}/zh.jsonl:{n}" for n in range(1, 13)] + [f"{scenes}/en.jsonl:{n}" for n in range(1, 9)]


def test_a_sources_own_task_and_prompts_win_over_the_runs(make_data, make_datamodule, prompts):
    own = replace(prompts, summary=replace(prompts.summary, user="Own words."))
    source = make_data.source("en.jsonl", task="summary", prompts=own)
    dataset = make_datamodule(data=make_data(train={"en": source}, sampling="dense")).train_dataset()
    samples = [dataset.sample((0, index)) for index in range(8)]
    assert {sample.task for sample, _, _ in samples} == {"summary"}
    assert {used.summary.user for _, used, _ in samples} == {"Own words."}


def test_augmentation_draws_from_the_samples_own_key(make_datamodule):
    seen = []

    def augment(sample, key, seen_size):
        seen.append(key)
        return sample

    augment.phases = []

    dataset = make_datamodule(augment=augment, seed=9).train_dataset()
    dataset[(4, 2)], dataset[(4, 3)]
    assert seen == [(9, 4, 2), (9, 4, 3)]


def test_a_photo_that_does_not_move_is_cut_as_the_processor_does_and_one_that_moves_needs_no_second_resize(
    make_datamodule, make_data, processing, tmp_path
):
    image = photo(300, 260, seed=4)
    Image.fromarray(image).save(tmp_path / "large.png")
    box = {"bbox_2d": [20, 30, 200, 150], "desc": "plate"}
    (tmp_path / "large.jsonl").write_text(json.dumps({"images": ["large.png"], "objects": [box]}) + "\n")
    data = make_data(train=str(tmp_path / "large.jsonl"), val=None, sampling="dense")
    found = {}
    for p in (0.0, 1.0):
        augment = compose(flip=op("hflip", p=p))
        dataset = make_datamodule(data=data, augment=augment).train_dataset()
        found[p] = dataset.sample((0, 0))[0], dataset[(0, 0)]
    rows, grid = to_patches(image, processing, still=True)
    (whole, still), (moved, features) = found[0.0], found[1.0]
    assert np.array_equal(still.patches, rows) and whole.size() == (300, 260)
    seen = seen_size(260, 300, processing)[::-1]
    assert moved.size() == seen and features.grids.tolist() == still.grids.tolist() == [list(grid)]
    x1, y1, x2, y2 = moved.annotations[0].shape.bounds  # mirrored, in pixels of what the model sees
    scale = (seen[0] / 300, seen[1] / 260)
    assert (x1, y1) == pytest.approx((100 * scale[0], 30 * scale[1]))
    assert (x2, y2) == pytest.approx((280 * scale[0], 150 * scale[1]))


def test_a_row_is_its_samples_one_after_another(dataset):
    features = [dataset[(0, index)] for index in (0, 1, 2)]
    batch = collate(features)
    lengths = [len(item.input_ids) for item in features]
    assert batch["segments"].tolist() == lengths and len(set(lengths)) > 1
    for name, field in zip(ROW, ("input_ids", "labels", "token_types"), strict=True):
        parts = batch[name][0].split(lengths)
        assert batch[name].shape == (1, sum(lengths))
        assert all(np.array_equal(part, getattr(item, field)) for part, item in zip(parts, features, strict=True))
    parts = batch["position_ids"][:, 0].split(lengths, dim=1)
    assert all(np.array_equal(part, item.positions) for part, item in zip(parts, features, strict=True))
    assert np.array_equal(batch["pixel_values"], np.concatenate([item.patches for item in features]))
    assert np.array_equal(batch["image_grid_thw"], np.concatenate([item.grids for item in features]))
    assert batch["dropped"] == 0 and "cell_classes" not in batch


def test_dropped_samples_leave_the_row_and_are_counted(dataset):
    features = [dataset[(0, 0)], None, dataset[(0, 1)], None]
    batch = collate(features)
    assert batch["dropped"] == 2 and len(batch["segments"]) == 2
    assert torch.equal(batch["input_ids"], collate([features[0], features[2]])["input_ids"])
    with pytest.raises(DataError, match="every sample of a batch was dropped as overlong"):
        collate([None, None])


def test_grounding_targets_have_one_row_a_visual_token(make_datamodule):
    dataset = make_datamodule(grounding=True).train_dataset()
    batch = collate([dataset[(0, index)] for index in range(4)])
    cells = int((batch["mm_token_type_ids"] == 1).sum())
    assert batch["cell_classes"].shape == (cells,) and batch["cell_points"].shape == (cells, 8)
    assert batch["cell_classes"].max() > 0


def test_step_counts_are_label_tokens_and_visual_tokens_of_all_micro_batches(dataset):
    batches = [collate([dataset[(0, 0)], dataset[(0, 5)]]), collate([dataset[(0, 7)]])]
    counts = step_counts(batches)
    features = [dataset[(0, index)] for index in (0, 5, 7)]
    kinds = np.concatenate([item.label_kinds for item in features])
    assert counts["step_labels"].tolist() == [int((kinds == number).sum()) for number in range(1, 6)]
    assert counts["step_labels"].sum() == sum(int((item.labels != IGNORE).sum()) for item in features)
    assert counts["step_cells"] == sum(int(item.grids.prod(1).sum()) // 4 for item in features)


def records_of(*descs: str) -> list[Record]:
    notes = [Annotation(Shape("bbox_2d", [0, 0, 1, 1]), desc) for desc in descs]
    return [Record(images=("a.png",), annotations=(note,)) for note in notes]


def test_classes_are_numbered_by_falling_frequency_over_all_sources(prompts):
    sources = [OpenSource("a", records_of("螺丝", "plate", "plate"), 1, "dense", prompts)]
    sources.append(OpenSource("b", records_of("plate", "cable", "螺丝", "a"), 1, "dense", prompts))
    assert class_table(sources) == {"plate": 1, "螺丝": 2, "a": 3, "cable": 4}
    assert class_table(sources, limit=2) == {"plate": 1, "螺丝": 2}
    assert class_table(sources, scan=1) == {"plate": 1, "螺丝": 2}
    assert CLASS_LIMIT == 255


def test_descs_beyond_the_table_are_background_and_no_error(make_datamodule):
    datamodule = make_datamodule(grounding=True)
    datamodule.classes = dict(list(datamodule.classes.items())[:1])
    dataset = datamodule.train_dataset()
    assert {value for index in range(20) for value in dataset[(0, index)].cell_classes.tolist()} == {0, 1}


def test_a_source_without_records_is_refused(make_data, prompts, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty.jsonl"):
        open_source("mine", make_data.source(str(tmp_path / "empty.jsonl")), "dense", prompts)


def test_a_missing_file_is_refused_with_the_way_to_name_one(make_data, prompts):
    with pytest.raises(DataError, match=r"nowhere.jsonl not found; .*data.train=/abs/train.jsonl"):
        open_source("mine", make_data.source("nowhere.jsonl"), "dense", prompts)


@pytest.mark.parametrize(("lacking", "sampling"), [("summary", "summary"), ("summary", "mixed"), ("objects", "dense")])
def test_a_record_that_lacks_what_its_samples_are_made_of_stops_before_training(
    make_data, make_datamodule, scenes, tmp_path, lacking, sampling
):
    lines = [json.loads(line) for line in (scenes / "en.jsonl").read_text().splitlines()]
    del lines[2][lacking]
    (tmp_path / "part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = make_data(train={"mine": make_data.source(str(tmp_path / "part.jsonl"))}, sampling=sampling)
    with pytest.raises(RecordError, match=rf"part.jsonl:3: {lacking} is missing, but source mine samples {sampling}"):
        make_datamodule(data=data)


def test_a_photo_that_is_missing_or_of_another_size_names_file_line_and_field(
    make_data, make_datamodule, scenes, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(scenes, folder)
    (folder / "en_0.png").unlink()
    shutil.copy(folder / "en_1.png", folder / "en_2.png")
    data = make_data(train={"en": make_data.source(str(folder / "en.jsonl"))}, sampling="dense")
    dataset = make_datamodule(data=data).train_dataset()
    with pytest.raises(RecordError, match=r"en.jsonl:1: images\[0\] .*en_0.png.* not found"):
        dataset[(0, 0)]
    with pytest.raises(RecordError, match=r"en.jsonl:3: width, height say 64x128 but images\[0\] is 96x64"):
        dataset[(0, 2)]
