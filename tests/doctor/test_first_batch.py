"""The first sheet of a run: its pixels are those of the patches, its outlines those of the trained tokens."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from qcvl.data.samples import load_photo
from qcvl.doctor.first_batch import draw_first_batch, save_first_batch, seen_images, written_answer
from qcvl.doctor.labels import audit_labels
from qcvl.models.pixels import clip_grid, clip_patches, seen_size, to_frames, to_patches
from qcvl.models.text import plain_ids
from qcvl.schema.answer import DEFAULT_FORMAT


@pytest.fixture
def audited(make_data, make_datamodule):
    """The first samples of the dense task, and the dataset they are of."""
    dataset = make_datamodule(data=make_data(sampling="dense")).train_dataset()
    return audit_labels(dataset).samples, dataset


def test_the_pictures_are_the_photos_resized_as_the_model_sees_them(audited, processing):
    samples, dataset = audited
    records = {record.where: record for source in dataset.sources for record in source.records}
    for one in samples:
        photo = Image.fromarray(load_photo(records[one.where], 0))
        seen = seen_size(photo.height, photo.width, processing)[::-1]
        expected = photo if photo.size == seen else photo.resize(seen, Image.Resampling(processing.resample))
        (picture,) = seen_images(one.features, processing)
        assert np.array_equal(picture, np.asarray(expected))


def test_patches_of_photos_and_clips_go_back_to_the_frames_they_were_cut_from(processing):
    family, side = processing.family, processing.family.factor
    frames = np.random.default_rng(0).integers(0, 256, (4, 2 * side, 3 * side, 3), dtype=np.uint8)
    grid = clip_grid(4, 2 * side, 3 * side, family)
    assert np.array_equal(to_frames(clip_patches(frames, family), grid, family), frames)
    large = replace(processing, max_pixels=64 * side**2)
    for still in (False, True):
        rows, grid = to_patches(frames[0], large, still=still)
        back = to_frames(rows, grid, family)
        assert len(back) == (1 if still else family.temporal_patch_size) and np.array_equal(back[0], frames[0])


def test_the_objects_are_read_back_from_the_tokens_in_pixels_of_the_picture(audited, processing):
    samples, dataset = audited
    records = {record.where: record for source in dataset.sources for record in source.records}
    for one in samples:
        (picture,) = seen_images(one.features, processing)
        height, width = picture.shape[:2]
        answer, record = written_answer(one.features, processing, DEFAULT_FORMAT), records[one.where]
        assert answer.status == "strict" and len(answer.annotations) == len(record.annotations) > 0
        scale = np.array([width, height]) / record.sizes[0]
        for note in record.annotations:  # the nearest vertex of the same desc is its own, within the grid's bound
            points = np.concatenate([found.shape.points for found in answer.annotations if found.desc == note.desc])
            far = np.abs(points[None] - (note.shape.points * scale)[:, None]).max(-1).min(1)
            assert far.max() <= max(width, height) / 1000


def answered(one, processing, text: str):
    """The sample with other tokens as its answer."""
    ids = np.array([*plain_ids(processing, text), 0])
    labels = np.full(len(ids) + 1, -100)
    labels[1:] = ids
    return replace(one, features=replace(one.features, labels=labels))


def test_an_offset_of_the_tokens_moves_the_outline_and_nothing_else(audited, processing):
    one, box = audited[0][0], '{{"object_1": {{"bbox_2d": [{}, 200, {}, 600], "desc": "x"}}}}'
    (picture,) = seen_images(one.features, processing)
    scale = 320 / min(picture.shape[:2])  # of draw_first_batch
    for left in (100, 350):
        there, elsewhere = (
            draw_first_batch([answered(one, processing, box.format(x, x + 300))], processing, DEFAULT_FORMAT).astype(
                int
            )
            for x in (left, left + 280)
        )
        column = round((left / 1000) * picture.shape[1] * scale)
        # Between top and bottom edge only the sides are drawn: the left one of each sheet, where the other has none.
        middle = there.shape[0] - 12 - round(picture.shape[0] * scale * 0.5)
        changed = np.abs(there - elsewhere)[middle].sum(-1)
        sides = [round(x / 1000 * picture.shape[1] * scale) for x in (left, left + 300, left + 280, left + 580)]
        near = {x + shift for x in sides for shift in range(-4, 4)}
        found = {int(x) - 12 for x in np.flatnonzero(changed)}
        assert found and found <= near and any(abs(x - column) <= 1 for x in found)


def test_samples_without_a_photo_or_an_object_are_shown_with_what_they_say(
    make_data, make_datamodule, conversations, processing, tmp_path
):
    data = make_data(train={"chat": make_data.source("chat.jsonl")}, sampling="dense")
    samples = audit_labels(make_datamodule(data=data).train_dataset()).samples
    path = save_first_batch(samples, processing, DEFAULT_FORMAT, tmp_path)
    assert path == tmp_path / "first_batch.png" and Image.open(path).width > 320
    alone = [one for one in samples if one.image_tokens == 0]
    assert alone and draw_first_batch(alone, processing, DEFAULT_FORMAT).shape[0] < 40
