"""Greedy answers about 64 demo photos: the loop that lets finished rows leave beside ``model.generate``.

Both get the same left-padded batches and the same embedded model; the answers must be equal, token by token.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from measure import median_seconds, report

from qcvl import config
from qcvl.data.scenes.records import SceneRecords
from qcvl.inference.generate import Written
from qcvl.inference.hf import HFPredictor
from qcvl.inference.predictor import Reply, Request
from qcvl.inference.settings import Generation


class StockPredictor(HFPredictor):
    """The same requests in the same batches, written by transformers' own ``generate``."""

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order."""
        replies: list[Reply] = []
        for start in range(0, len(requests), self.generation.batch_size):
            (inputs,) = self._parts(requests[start : start + self.generation.batch_size], self.generation.batch_size)
            del inputs["position_ids"]  # generate computes its own
            written = self.model.generate(
                **inputs,
                max_new_tokens=self.generation.max_new_tokens,
                do_sample=False,
                pad_token_id=self.processing.pad,
            )
            replies += [self._cut(row.tolist()) for row in written[:, inputs["input_ids"].shape[1] :]]
        return replies

    def _cut(self, ids: list[int]) -> Reply:
        """A row up to its end-of-turn token: what follows is padding."""
        end = self.processing.turn_end
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        return replace(self._reply(Written(ids, [1.0] * len(ids)), "dense"), scores=None)


def main(arguments: Sequence[str] = ()) -> None:
    """Compare answers a second; ``--quick`` takes four photos, short answers and one repeat."""
    quick = "--quick" in arguments
    photos, new_tokens, repeats = (4, 24, 1) if quick else (64, 256, 3)
    settings = config.build(config.load("infer", ["prompts=zh", "answer=objects", "input=none"]))
    torch.set_num_threads(1)
    model, processing = settings.model.load_model().eval(), settings.model.load_processing()
    generation = Generation(max_new_tokens=new_tokens, temperature=0.0, top_p=1.0, batch_size=32)
    records = SceneRecords(length=photos, seed=0, domain="demo", language="zh")
    requests = [Request(records[index].images, settings.prompts.for_task("dense")) for index in range(photos)]
    ours, peer = HFPredictor(model, processing, generation), StockPredictor(model, processing, generation)

    answers = [replace(reply, scores=None) for reply in ours.answer(requests)]
    assert answers == peer.answer(requests), "the two loops wrote different answers"
    ours_s, peer_s = median_seconds([lambda: ours.answer(requests), lambda: peer.answer(requests)], repeats)
    lengths = sorted(reply.tokens for reply in answers)
    rows = {
        "photos": f"{photos}, answers of {lengths[0]} to {lengths[-1]} tokens, median {lengths[photos // 2]}",
        "qcvl": f"{photos / ours_s:.1f} answers/s",
        "model.generate": f"{photos / peer_s:.1f} answers/s",
        "answers": "equal",
    }
    numbers = {"answers_per_s": photos / ours_s, "peer_answers_per_s": photos / peer_s}
    report("generate", rows, ratio=peer_s / ours_s, peer="transformers generate", **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
