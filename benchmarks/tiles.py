"""Large photos answered window by window: the tile predictor beside the same windows by transformers' ``generate``.

Each photo of 640x640 px is a plain panel with demo objects on a few windows of 49; the embedded model answers. Both
cut the same windows and merge by the same votes; they must write as many tokens about each photo.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from generate import StockPredictor
from measure import median_seconds, report

from qcvl import config
from qcvl.data.scenes.records import SceneRecords
from qcvl.inference.hf import HFPredictor
from qcvl.inference.predictor import Request
from qcvl.inference.settings import Generation
from qcvl.inference.tiles import TilePredictor

SIDE, SCENE = 640, 128  # px: of a photo, and of one scene on it


def photo_of(scenes: SceneRecords, number: int, count: int) -> np.ndarray:
    """A grey photo uint8 ``[SIDE, SIDE, 3]`` with ``count`` scenes at random places."""
    rng = np.random.default_rng(number)
    photo = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    for place in range(count):
        (scene,) = scenes[number * count + place].images
        x, y = rng.integers(0, SIDE - SCENE, 2)
        photo[y : y + SCENE, x : x + SCENE] = cv2.resize(scene, (SCENE, SCENE), interpolation=cv2.INTER_AREA)
    return photo


def main(arguments: Sequence[str] = ()) -> None:
    """Compare CPU seconds a photo; ``--quick`` takes one photo, short answers and one repeat."""
    quick = "--quick" in arguments
    photos, new_tokens, repeats = (1, 16, 1) if quick else (8, 80, 3)
    settings = config.build(config.load("infer", ["prompts=zh", "answer=objects", "input=none", "tiles=grid"]))
    torch.set_num_threads(1)
    model, processing = settings.model.load_model().eval(), settings.model.load_processing()
    answer_format = settings.answer.resolved(processing.family.emit_norm)
    generation = Generation(max_new_tokens=new_tokens, temperature=0.0, top_p=1.0, batch_size=784)
    scenes = SceneRecords(length=photos * 2, seed=0, domain="demo", language="zh")
    prompt = settings.prompts.for_task("dense")
    requests = [Request((photo_of(scenes, number, 2),), prompt) for number in range(photos)]
    peer_generation = replace(generation, batch_size=196)  # its finished rows wait for the longest of their batch
    ours, peer = (
        TilePredictor(predictor, settings.tiles, answer_format)
        for predictor in (
            HFPredictor(model, processing, generation),
            StockPredictor(model, processing, peer_generation),
        )
    )

    answers = ours.answer(requests)
    places = [sorted(reply.text.count(kind) for kind in ("bbox_2d", "quad", "line")) for reply in answers]
    assert [reply.tokens for reply in answers] == [reply.tokens for reply in peer.answer(requests)]
    ours_s, peer_s = median_seconds([lambda: ours.answer(requests), lambda: peer.answer(requests)], repeats)
    rows = {
        "photos": f"{photos} of {SIDE}x{SIDE} px, 49 windows each, {sum(map(sum, places)) / photos:.0f} objects",
        "tokens": f"{sum(reply.tokens for reply in answers) / photos / 49:.1f} a window",
        "qcvl": f"{ours_s / photos:.3f} CPU s/photo",
        "model.generate": f"{peer_s / photos:.3f} CPU s/photo",
    }
    numbers = {"s_per_photo": ours_s / photos, "peer_s_per_photo": peer_s / photos}
    report("tiles", rows, ratio=peer_s / ours_s, peer="transformers generate", **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
