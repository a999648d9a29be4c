"""From a record to decoded pixels. Free of torch, so that photos can be checked and drawn without it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from qcvl.augment.telemetry import added
from qcvl.data.images import load_image
from qcvl.data.pairs import pair_images
from qcvl.data.video import VideoSampling, read_clip
from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.geometry.order import Order
from qcvl.schema.answer import answer_order, written_shape
from qcvl.schema.records import Record
from qcvl.schema.types import Clip, Pairing, Sample, Task


def record_error(record: Record, field: str, message: str) -> RecordError:
    """An error that names where ``record`` stands and its field: ``path:line: field message``."""
    return RecordError(message, path=record.path or record.where, line=record.line, field=field)


def load_photo(record: Record, index: int) -> np.ndarray:
    """One photo of a record, uint8 RGB ``[H, W, 3]`` after EXIF orientation.

    Raises:
        RecordError: when it cannot be read or its size is not the one the record states.
    """
    value = record.images[index]
    try:
        image = load_image(record.image_path(index) if isinstance(value, str) else value, "")
    except DataError as error:
        raise record_error(record, f"images[{index}]", str(error).strip()) from error
    stated = record.sizes[index] if record.sizes else None
    if stated is not None and tuple(stated) != (image.shape[1], image.shape[0]):
        found = f"images[{index}] is {image.shape[1]}x{image.shape[0]} after EXIF orientation"
        raise record_error(record, "width, height", f"say {stated[0]}x{stated[1]} but {found}; correct the record")
    return image


def load_clip(record: Record, index: int, sampling: VideoSampling, factor: int, *, decode: bool = True) -> Clip:
    """What is seen of one video of a record, by ``sampling`` and what the record itself says; see ``read_clip``.

    Raises:
        RecordError: when it cannot be read, or what the record says contradicts the settings.
    """
    video, files = record.videos[index], record.video_files(index)
    options = video.options
    try:
        own = sampling.overridden(options)
    except ConfigError as error:
        raise record_error(record, f"videos[{index}]", f"does not go with the settings: {error}") from error
    try:
        return read_clip(
            files[0] if isinstance(video.source, str) else [str(file) for file in files],
            own,
            factor,
            start=options.get("video_start", 0.0),
            end=options.get("video_end"),
            list_fps=options.get("sample_fps"),
            decode=decode,
        )
    except DataError as error:
        raise record_error(record, f"videos[{index}]", str(error)) from error


def build_sample(
    record: Record, task: Task, pairing: Pairing | None = None, clip: Callable[[int], Clip] | None = None
) -> Sample:
    """Decode a record's photos into a sample with all its annotations; of a pair, what ``pairing`` shows of it.

    A chat sample shows all photos as they are, and all videos as ``clip`` reads them by their number: its messages have
    a place for each.

    Raises:
        RecordError: for a photo or video that cannot be read, a template that is missing or of another size, or an
            object that lies in an image the pairing leaves out.
    """
    pairing = None if task == "chat" else pairing
    wanted = 1 if pairing == "photo" else len(record.images)
    try:
        images = pair_images([load_photo(record, index) for index in range(wanted)], pairing)
    except RecordError:
        raise
    except DataError as error:
        raise record_error(record, "images[0]", str(error)) from error
    for index, note in enumerate(record.annotations):
        if note.image >= len(images):
            found = f"lies in image {note.image}; of a pair the photo, image 0, carries the objects"
            raise record_error(record, f"objects[{index}].image", f"{found}: move it, or set data.pair=null")
    videos = [clip(index) for index in range(len(record.videos))] if clip is not None and task == "chat" else []
    return sample_of(record, task, images, videos)


def sample_of(record: Record, task: Task, images: Sequence[np.ndarray], videos: Sequence[Clip] = ()) -> Sample:
    """A record with its photos and clips as a sample with all its annotations."""
    count = len(record.annotations)
    return Sample(
        images=tuple(images),
        annotations=record.annotations,
        task=task,
        summary=record.summary,
        messages=record.messages,
        videos=tuple(videos),
        kept_indices=tuple(range(count)),
        coverages=(1.0,) * count,
    )


def joined(samples: Sequence[Sample]) -> Sample:
    """One sample of the photos of several records, to be spoken of together and judged apart; one stays as it is.

    Raises:
        DataError: for a record that shows another number of photos than one.
    """
    first, *others = samples
    if not others:
        return first
    if any(len(sample.images) != 1 for sample in samples):
        raise DataError(
            "a record of several photos cannot share a turn with others; set data.images_per_user_turn=null"
        )
    notes = [replace(note, image=number) for number, sample in enumerate(samples) for note in sample.annotations]
    return replace(
        first,
        images=tuple(sample.images[0] for sample in samples),
        annotations=tuple(notes),
        summary=None,
        summaries=tuple(sample.summary for sample in samples),
        kept_indices=tuple(index for sample in samples for index in sample.kept_indices),
        coverages=tuple(share for sample in samples for share in sample.coverages),
        telemetry=added(sample.telemetry for sample in samples),
    )


def outline(
    record: Record, task: Task, sizes: Sequence[tuple[int, int]], clip: Callable[[int], Clip] | None = None
) -> Sample:
    """The sample ``build_sample`` gives, with blank photos of ``sizes`` (width, height) in no memory."""
    blank = [np.broadcast_to(np.uint8(0), (height, width, 3)) for width, height in sizes]
    videos = [clip(index) for index in range(len(record.videos))] if clip is not None and task == "chat" else []
    return sample_of(record, task, blank, videos)


def keep_first(sample: Sample, count: int, order: Order) -> Sample:
    """The sample with its first ``count`` objects in the order answers list them; further ones are not spoken of."""
    if len(sample.annotations) <= count:
        return sample
    keep = sample.keep_vertex_order
    shaped = [replace(note, shape=written_shape(note.shape, keep)) for note in sample.annotations]
    kept = sorted(answer_order(shaped, order)[:count])
    return replace(
        sample,
        annotations=tuple(sample.annotations[index] for index in kept),
        kept_indices=tuple(sample.kept_indices[index] for index in kept),
        coverages=tuple(sample.coverages[index] for index in kept),
    )
