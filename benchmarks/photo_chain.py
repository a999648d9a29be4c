"""A training photo from its file to patch rows: our chain beside the same one in PIL and transformers, on one core.

1920x1080 JPEG photos with 30 quads are decoded, turned by up to 15 degrees, cropped to 80 % of their sides, changed in
brightness, contrast and saturation, resized for at most 576 cells of 32x32 pixels and cut into patches. The peer turns
by a bicubic ``Image.transform``, crops, paints by ``ImageEnhance`` and hands over to ``Qwen2VLImageProcessorPil``; its
quads' corners move by the same matrix and are neither clipped nor sorted. Ours stops at uint8 rows, as a worker does;
the normalisation that the device does in training is timed beside it.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from augment import pipeline_of, sample
from measure import median_seconds, report
from PIL import Image, ImageEnhance
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qcvl.augment.color import ColorJitter
from qcvl.augment.crop import RandomCrop
from qcvl.augment.spatial import Rotate
from qcvl.data.images import load_image
from qcvl.geometry.affine import apply_affine, rotation_matrix
from qcvl.models.forward import normalised
from qcvl.models.pixels import seen_size, to_patches
from qcvl.models.spec import Family, Processing
from qcvl.schema.types import Annotation, Sample

SHAPES, DEGREES, CROP, FACTOR = 30, 15.0, 0.8, (0.85, 1.15)
CELLS = (16, 576)  # the budget of conf/model/qwen3_vl_4b.yaml
QUALITY = 90


def jpeg(width: int, height: int, seed: int) -> bytes:
    """A photo-like JPEG: noise whose amplitude falls with its frequency, as in natural pictures."""
    random = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for side in (4, 12, 40, 120):
        coarse = random.normal(size=(max(height * side // width, 2), side, 3)).astype(np.float32)
        layers = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        picture += np.stack([np.asarray(layer) for layer in layers], axis=2) / side**0.5
    picture += random.normal(size=picture.shape) * 0.02
    low, high = picture.min(), picture.max()
    file = io.BytesIO()
    Image.fromarray(((picture - low) / (high - low) * 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class Ours:
    """The three stages as the training loader runs them."""

    def __init__(self, notes: tuple[Annotation, ...], processing: Processing) -> None:
        self.notes, self.processing = notes, processing
        self.augment_photo = pipeline_of(
            rotate=Rotate(p=1.0, max_rotation_degrees=DEGREES),
            crop=RandomCrop(
                p=1.0,
                min_scale=CROP,
                max_scale=CROP,
                min_aspect=1.0,
                max_aspect=1.0,
                min_coverage=0.3,
                completeness_threshold=0.95,
                min_objects=1,
                skip_if_line=False,
            ),
            jitter=ColorJitter(p=1.0, brightness=FACTOR, contrast=FACTOR, saturation=FACTOR, hue=(0.0, 0.0)),
        )

    def decode(self, data: bytes) -> np.ndarray:
        """The file's pixels."""
        return load_image(data)

    def augment(self, image: np.ndarray, seed: int) -> np.ndarray:
        """The moved, cropped and recoloured photo in the model's size, its quads moved, clipped and sorted."""
        whole = Sample(images=(image,), annotations=self.notes, task="dense")
        return self.augment_photo(whole, (0, 0, seed), self.seen).images[0]

    def seen(self, width: int, height: int) -> tuple[int, int]:
        """The size the model sees."""
        return seen_size(height, width, self.processing)[::-1]

    def patches(self, image: np.ndarray) -> np.ndarray:
        """Uint8 patch rows."""
        return to_patches(image, self.processing, still=True)[0]


class Peer:
    """The same stages in PIL and transformers."""

    def __init__(self, notes: tuple[Annotation, ...], processing: Processing) -> None:
        self.corners = np.concatenate([note.shape.points for note in notes])
        settings = processing.image_settings()
        del settings["image_processor_type"]
        self.processor = Qwen2VLImageProcessorPil(**settings)

    def decode(self, data: bytes) -> Image.Image:
        """The file's pixels."""
        return Image.open(io.BytesIO(data)).convert("RGB")

    def augment(self, image: Image.Image, seed: int) -> Image.Image:
        """The moved, cropped and recoloured photo, its quads' corners moved."""
        random = np.random.default_rng(seed)
        width, height = image.size
        matrix = rotation_matrix(random.uniform(-DEGREES, DEGREES), (width / 2, height / 2))
        inverse = np.linalg.inv(matrix)[:2].ravel().tolist()
        turned = image.transform(
            image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)
        )
        new_width, new_height = round(width * CROP), round(height * CROP)
        x, y = (int(random.integers(room + 1)) for room in (width - new_width, height - new_height))
        picture = turned.crop((x, y, x + new_width, y + new_height))
        apply_affine(self.corners, matrix) - (x, y)
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = enhancer(picture).enhance(random.uniform(*FACTOR))
        return picture

    def patches(self, image: Image.Image) -> np.ndarray:
        """Float32 patch rows, normalised and repeated along time."""
        return self.processor(images=[image], return_tensors="np")["pixel_values"]


def stages(chain: Ours | Peer, files: Sequence[bytes]) -> list[Callable[[], object]]:
    """Decoding, augmenting and patching all photos, each by itself."""
    decoded = [chain.decode(data) for data in files]
    augmented = [chain.augment(image, seed) for seed, image in enumerate(decoded)]
    return [
        lambda: [chain.decode(data) for data in files],
        lambda: [chain.augment(image, seed) for seed, image in enumerate(decoded)],
        lambda: [chain.patches(image) for image in augmented],
    ]


def main(arguments: Sequence[str] = ()) -> None:
    """Compare photos a second; ``--quick`` takes small photos and one repeat."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    quick = "--quick" in arguments
    width, height, count, repeats = (320, 180, 2, 1) if quick else (1920, 1080, 8, 5)
    family = Family.from_config({"model_type": "qwen3_vl"}, {}, "the benchmark")
    cell = family.factor**2
    budget = {"min_pixels": CELLS[0] * cell, "max_pixels": CELLS[1] * cell}
    processing = Processing(tokenizer=None, chat_template="", family=family, **budget)
    notes = sample(width, height).annotations[:SHAPES]
    files = [jpeg(width, height, seed) for seed in range(count)]
    ours, peer = Ours(notes, processing), Peer(notes, processing)
    rows = [ours.patches(ours.augment(ours.decode(data), seed)) for seed, data in enumerate(files)]
    normalise = [lambda: [normalised(torch.from_numpy(part), family) for part in rows]]
    times = median_seconds([*stages(ours, files), *stages(peer, files), *normalise], repeats)
    mine, theirs, device = times[:3], times[3:6], times[6]
    names = ("decode", "augment", "patches")
    table = {"photos": f"{count} of {width}x{height} with {SHAPES} quads, {repeats} repeats, ms a photo"}
    for name, a, b in zip(names, mine, theirs, strict=True):
        table[name] = f"qcvl {1000 * a / count:.1f}, PIL and transformers {1000 * b / count:.1f}"
    table["all"] = f"qcvl {count / sum(mine):.1f} photos/s, PIL and transformers {count / sum(theirs):.1f}"
    table["normalisation"] = f"{1000 * device / count:.1f} (the device's in training, within the peer's patches)"
    numbers = {f"{name}_ms": 1000 * value / count for name, value in zip(names, mine, strict=True)}
    numbers |= {f"peer_{name}_ms": 1000 * value / count for name, value in zip(names, theirs, strict=True)}
    numbers |= {"ratio_with_normalisation": sum(theirs) / (sum(mine) + device), "photos_per_s": count / sum(mine)}
    peer_name = "PIL transform and ImageEnhance, transformers Qwen2VLImageProcessorPil"
    report("photo_chain", table, ratio=sum(theirs) / sum(mine), peer=peer_name, **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
