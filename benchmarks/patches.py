"""Photos to patch rows: ``qcvl.models.pixels.to_patches`` beside transformers' ``Qwen2VLImageProcessorPil``.

Both resize bicubically with Pillow to at most 576 cells of 32x32 pixels and give the same numbers. In training the
worker stops at uint8 rows and the device normalises them, so that time is shown as well.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from measure import median_seconds, report
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qcvl.models.forward import normalised
from qcvl.models.pixels import to_patches
from qcvl.models.spec import Family, Processing

CELLS = (16, 576)  # smallest and largest number of visual tokens, the budget of conf/model/qwen3_vl_4b.yaml


def photo(width: int, height: int, seed: int) -> np.ndarray:
    """A smooth random photo, uint8 ``[height, width, 3]``: noise has no place in a photo and resizes differently."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def main(arguments: Sequence[str] = ()) -> None:
    """Compare speed and values; ``--quick`` takes small photos and one repeat."""
    quick = "--quick" in arguments
    width, height, count, repeats = (320, 240, 2, 1) if quick else (1920, 1080, 8, 5)
    family = Family.from_config({"model_type": "qwen3_vl"}, {}, "the benchmark")
    cell = family.factor**2
    processing = Processing(
        tokenizer=None, chat_template="", family=family, min_pixels=CELLS[0] * cell, max_pixels=CELLS[1] * cell
    )
    settings = processing.image_settings()
    del settings["image_processor_type"]
    theirs = Qwen2VLImageProcessorPil(**settings)
    photos = [photo(width, height, seed) for seed in range(count)]

    def peer(image: np.ndarray) -> np.ndarray:
        return theirs(images=[image], input_data_format="channels_last", return_tensors="np")["pixel_values"]

    def rows(image: np.ndarray) -> np.ndarray:
        return to_patches(image, processing, still=True)[0]

    def ours(image: np.ndarray) -> np.ndarray:
        return normalised(torch.from_numpy(to_patches(image, processing)[0]), family).numpy()

    difference = max(float(np.abs(ours(image) - peer(image)).max()) for image in photos)
    works = [lambda cut=cut: [cut(image) for image in photos] for cut in (ours, rows, peer)]
    ours_s, rows_s, peer_s = median_seconds(works, repeats)
    table = {
        "photos": f"{count} of {width}x{height}, {repeats} repeats",
        "qcvl": f"{count / ours_s:.1f} photos/s; to uint8 rows {count / rows_s:.1f}",
        "transformers": f"{count / peer_s:.1f} photos/s",
        "largest difference": f"{difference:.2g} of values -1..1 (one grey level is {2 / 255:.2g})",
    }
    numbers = {"photos_per_s": count / ours_s, "peer_photos_per_s": count / peer_s, "max_abs_difference": difference}
    report("patches", table, ratio=peer_s / ours_s, peer="transformers Qwen2VLImageProcessorPil", **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
