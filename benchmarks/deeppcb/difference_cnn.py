"""Whole DeepPCB photos by thresholded difference and a small CNN: what a vision-language model has to be measured by.

Where a photo differs from its template, a CNN of 0.2 M parameters says which of six defects a window shows, or none,
and where its box lies. It trains on the official trainval pairs but one in 25, on which the confidence is chosen, and
is scored on the official test pairs at hand, once per seed:

    python benchmarks/deeppcb/difference_cnn.py --root /abs/deeppcb --seeds 0 1 2 --out results.json

Equal seeds give equal scores on one machine; so training is as long as ``--epochs`` says, not as long as a clock does.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from candidates import SIDE, places, targets, windows
from network import BOX_SCALE, SHIFT, WindowNet, train
from scoring import Judged, best_confidence, scores

from qcvl.data.formats.deeppcb import CLASSES, Pair, read_pairs
from qcvl.data.images import load_image
from qcvl.data.pairs import pair_images
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation

NAMES = tuple(CLASSES.values())
HELD_BACK_SEED, HELD_BACK_EVERY = 11, 25  # 40 of the 1,000 official pairs
FLOOR = 0.01  # less probable boxes are not even ranked
OVERLAP = 0.3  # of two boxes that are one defect: among 6,873 true ones 4 pairs overlap more


def main() -> None:
    """Train and score one network per seed; print a table and one JSON line."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    options = _options()
    test = list(read_pairs(options.root, "val"))
    fitting, held_back = _split(list(read_pairs(options.root, "train")))
    start = time.process_time()
    examples = _examples(fitting)
    preparing = time.process_time() - start
    runs = []
    for seed in options.seeds:
        start = time.process_time()
        net = train(*examples, classes=len(NAMES), epochs=options.epochs, seed=seed)
        confidence = best_confidence(_judge(net, held_back)[0])
        minutes = (preparing + time.process_time() - start) / 60
        photos, seconds = _judge(net, test)
        costs = {"core_minutes": minutes, "parameters": sum(p.numel() for p in net.parameters())}
        costs |= {"ms_per_photo": 1000 * statistics.median(seconds), "confidence": confidence}
        runs.append(scores(photos, confidence) | costs)
        print(f"seed {seed}: F@.33 {runs[-1]['f1@0.33']:.3f} after {minutes:.1f} core-minutes", flush=True)
    _report(options, runs, {"pairs": len(fitting), "held_back": len(held_back), "test_pairs": len(test)})


def detect(net: WindowNet, pixels: np.ndarray) -> tuple[list[Annotation], list[float]]:
    """Boxes and their class probabilities, most probable first, from photo and template (channels of ``pixels``)."""
    centres = places(pixels)
    if not len(centres):
        return [], []
    with torch.inference_mode():
        logits, offsets = net(torch.from_numpy(windows(pixels, centres)))
        scores, kinds = logits.softmax(dim=1)[:, :-1].max(dim=1)
    height, width = pixels.shape[:2]
    corners = offsets.numpy() * BOX_SCALE + np.tile(centres, 2)
    corners = corners.astype(float).clip(0, [width, height, width, height])
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    sides = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    kept = np.array(cv2.dnn.NMSBoxes(sides.tolist(), scores.tolist(), FLOOR, OVERLAP), dtype=int)
    boxes = [Annotation(Shape("bbox_2d", corners[i]), NAMES[int(kinds[i])]) for i in kept]
    return boxes, [float(scores[i]) for i in kept]


def _judge(net: WindowNet, pairs: Sequence[Pair]) -> tuple[list[Judged], list[float]]:
    """What was found in each photo, and the CPU seconds from decoded pixels to boxes."""
    photos, seconds = [], []
    for pair in pairs:
        pixels = _fused(pair)
        start = time.process_time()
        found, certainty = detect(net, pixels)
        seconds.append(time.process_time() - start)
        photos.append(Judged(pair.defects, found, certainty, pixels.shape[1::-1]))
    return photos, seconds


def _fused(pair: Pair) -> np.ndarray:
    """Photo, template and their difference as the channels of uint8 ``[H, W, 3]``."""
    return pair_images([load_image(pair.photo), load_image(pair.template)], "fused")[0]


def _split(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held back."""
    order = np.random.default_rng(HELD_BACK_SEED).permutation(len(pairs)).tolist()
    count = max(len(pairs) // HELD_BACK_EVERY, 1)
    return [pairs[i] for i in order[count:]], [pairs[i] for i in order[:count]]


def _examples(pairs: Sequence[Pair]) -> tuple[torch.Tensor, ...]:
    """Windows, classes and boxes of all candidates."""
    rows = []
    for pair in pairs:
        pixels = _fused(pair)
        centres = places(pixels)
        rows.append((windows(pixels, centres, SIDE + 2 * SHIFT), *targets(centres, pair.defects, NAMES)))
    return tuple(torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds PCBData")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over all defects")
    parser.add_argument("--out", type=Path, help="JSON file for the scores of every seed")
    return parser.parse_args()


def _report(options: argparse.Namespace, runs: Sequence[dict[str, float]], counts: dict[str, int]) -> None:
    """The table (mean over seeds, least and most) and the last line, which holds the means."""
    means = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
    print(f"difference_cnn, seeds {options.seeds}, {options.epochs} epochs, {counts}:")
    for key, mean in means.items():
        values = [run[key] for run in runs]
        print(f"  {key:18} {mean:10.4g}   {min(values):.4g} .. {max(values):.4g}")
    result = {"name": "deeppcb_difference_cnn", "seeds": options.seeds, "epochs": options.epochs, **counts}
    if options.out:
        options.out.write_text(json.dumps(result | {"runs": runs}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result | {key: float(f"{value:.4g}") for key, value in means.items()}))


if __name__ == "__main__":
    main()
