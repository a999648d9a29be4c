"""A model's own weights, pixels and words, by qcvl and by plain transformers: the same, or what differs.

Each check is a function of objects at hand, so that it can be given wrong ones.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE, IMAGE_PAD, ask
from qcvl.data.dataset import Samples
from qcvl.data.encode import Features, true_answer
from qcvl.errors import DataError
from qcvl.models.context import extend_context
from qcvl.models.folders import find_folder, read_config
from qcvl.models.forward import hidden_states, label_logits, normalised
from qcvl.models.pixels import to_patches
from qcvl.models.settings import ModelSpec
from qcvl.models.spec import Processing, read_image_settings
from qcvl.models.text import decoded
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import Task
from qcvl.viz.verdicts import Verdict

# Norm of the difference of logits over that of the logits. Two orders of summation differ by some units of the last
# of 24, 11 or 8 bits, and by more after dozens of layers; a wrong position or mask changes logits by a good part.
LOGITS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
PIXELS = 1e-4  # of normalised values, in which one grey level is 1/255 / std: 8e-3 and more


@dataclass(frozen=True, slots=True)
class Example:
    """One training sample: where its record stands, what is shown and asked, the answer, and its encoded form."""

    where: str
    task: Task
    images: tuple[np.ndarray, ...]
    prompt: TaskPrompt
    answer: str
    features: Features


def examples_of(dataset: Samples, count: int) -> list[Example]:
    """The first ``count`` samples of a run, in training order.

    Raises:
        DataError: for a conversation, whose answers are not those to one prompt.
    """
    return [_example(dataset, key) for key in islice(dataset.opening(), count)]


def _example(dataset: Samples, key: tuple[int, ...]) -> Example:
    sample, prompts, where = dataset.sample(key)
    if sample.task == "chat" or sample.summaries:
        raise DataError(f"{where}: is a conversation; give records of objects to verify a model with: data.train=")
    encoder, prompt = dataset.encoder_of(dataset.source(key)), prompts.for_task(sample.task)
    features = encoder(sample, prompt, where)
    if features is None:
        raise DataError(f"{where}: is longer than global_max_length; raise it, or give other records")
    sizes = [sample.size(index) for index in range(len(sample.images))]
    answer = true_answer(
        sample.task,
        sample.annotations,
        sample.summary,
        sizes,
        [encoder.seen(*size) for size in sizes],
        encoder.answer_format,
        keep_vertex_order=sample.keep_vertex_order,
    )
    return Example(where, sample.task, tuple(sample.images), prompt, answer, features)


def load_plain(spec: ModelSpec) -> PreTrainedModel:
    """The checkpoint as transformers alone loads it, with its own SDPA attention and convolution, in eval mode."""
    folder = find_folder(spec.path, weights=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    extend_context(config, spec.context_factor)
    dtype = spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)
    plain = AutoModelForImageTextToText.from_pretrained(
        folder, config=config, dtype=dtype, local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
    )
    return plain.eval()


def check_logits(
    model: nn.Module, plain: Callable[[], nn.Module], examples: Sequence[Example], processing: Processing
) -> Verdict:
    """All examples in one packed row of ``model`` against each by itself in the model that ``plain`` makes.

    Adapters are left out. Compared are the logits that predict an answer's tokens; they depend on all before them.
    """
    fast = fast_logits(model, examples, processing)
    reference = plain().to(next(model.parameters()).device)
    expected = [plain_logits(reference, example, processing) for example in examples]
    wholes = torch.cat(expected)
    error = float((fast - wholes).norm() / wholes.norm())
    agree = float((fast.argmax(-1) == wholes.argmax(-1)).float().mean())
    bound = LOGITS[next(reference.parameters()).dtype]
    name = str(next(reference.parameters()).dtype).removeprefix("torch.")
    return Verdict(
        "logits",
        error <= bound,  # false for what is not a number
        f"relative difference {error:.1e}, same best token at {agree:.1%} of {len(wholes)} places",
        f"at most {bound:g} in {name}, of plain transformers",
        "try model.attn=sdpa; where that passes, the attention at fault is the one the log names at the start. Where "
        "it fails too, the weights do not belong to config.json, or this release of transformers is not one of ours",
    )


@torch.no_grad()
def fast_logits(model: nn.Module, examples: Sequence[Example], processing: Processing) -> Tensor:
    """Float32 ``[label tokens, V]`` on the CPU, by the path that training takes."""
    device, training = next(model.parameters()).device, model.training
    batch: dict[str, Any] = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in collate([example.features for example in examples]).items()
    }
    batch["pixel_values"] = normalised(batch["pixel_values"], processing.family)
    batch["segments"] = tuple(batch["segments"].tolist())
    index = batch["label_kinds"][0, 1:].nonzero()[:, 0]
    with model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext():
        logits = label_logits(model.eval(), hidden_states(model, batch).states, index).float().cpu()
    model.train(training)
    return logits


@torch.no_grad()
def plain_logits(model: nn.Module, example: Example, processing: Processing) -> Tensor:
    """Float32 ``[label tokens, V]`` on the CPU of one example, by the model's own forward."""
    device, features = next(model.parameters()).device, example.features
    rows = np.concatenate([to_patches(image, processing)[0] for image in example.images])
    index = np.flatnonzero(features.labels[1:] != IGNORE)
    out = model(
        input_ids=torch.from_numpy(features.input_ids)[None].to(device),
        mm_token_type_ids=torch.from_numpy(features.token_types)[None].int().to(device),
        pixel_values=normalised(torch.from_numpy(rows).to(device), processing.family),
        image_grid_thw=torch.from_numpy(features.grids).to(device),
        logits_to_keep=torch.from_numpy(index).to(device),
        use_cache=False,
    )
    return out.logits[0].float().cpu()


def check_pixels(folder: Path, examples: Sequence[Example], processing: Processing) -> Verdict:
    """Patches of the examples' photos against transformers' image processor, as the folder's own file sets it up.

    The pixel budget is the run's in both.
    """
    expected = f"at most {PIXELS:g}, of transformers' image processor set up by the folder"
    advice = (
        "compare preprocessor_config.json with that of the published checkpoint; a resampling or normalisation of its "
        "own is not what the model was trained with"
    )
    settings = read_image_settings(folder)
    if not settings:
        return Verdict("pixels", False, f"{folder} has no preprocessor_config.json", expected, advice)
    own = {"image_processor_type", "min_pixels", "max_pixels", "size"}
    settings = {name: value for name, value in settings.items() if name not in own}
    size = {"shortest_edge": processing.min_pixels, "longest_edge": processing.max_pixels}
    processor = Qwen2VLImageProcessorPil(**settings, size=size)
    worst, images = 0.0, [image for example in examples for image in example.images]
    cut = [image[image.shape[0] // 7 :, image.shape[1] // 9 :] for image in images]  # some are resized in any case
    for image in [*images, *cut]:
        rows, grid = to_patches(image, processing)
        theirs = processor(images=[image], input_data_format="channels_last", return_tensors="np")
        if theirs["image_grid_thw"].tolist() != [list(grid)] or theirs["pixel_values"].shape != rows.shape:
            shapes = [f"{list(part.shape)}" for part in (rows, theirs["pixel_values"])]
            found = (
                f"{shapes[0]} patches in a grid of {list(grid)}, transformers has {shapes[1]} in "
                f"{theirs['image_grid_thw'][0].tolist()}"
            )
            return Verdict("pixels", False, found, expected, advice)
        ours = normalised(torch.from_numpy(rows), processing.family).numpy()
        worst = max(worst, float(np.abs(ours - theirs["pixel_values"]).max()))
    found = f"normalised values of {len(images)} photos, whole and cut, differ by {worst:.1e}"
    return Verdict("pixels", worst <= PIXELS, found, expected, advice)


def check_tokens(folder: Path, examples: Sequence[Example], processing: Processing) -> Verdict:
    """Token ids of whole conversations against the folder's tokenizer with its own chat template; media ids too."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = read_config(folder)
    ids = {"image_token_id": processing.image_pad, "video_token_id": processing.video_pad}
    wrong = [f"{name} is {config.get(name)}, the tokenizer has {own}" for name, own in ids.items()
             if config.get(name, own) != own]  # fmt: skip
    for example in examples:
        theirs = _their_ids(tokenizer, example, processing)
        ours = example.features.input_ids.tolist()
        if ours != theirs:
            place = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
                         min(len(ours), len(theirs)))  # fmt: skip
            told = [decoded(processing, part[max(0, place - 3) : place + 3]) for part in (ours, theirs)]
            wrong.append(f"{example.where} from token {place} on: {told[0]!r}, the template's {told[1]!r}")
    count = sum(len(example.features.input_ids) for example in examples)
    return Verdict(
        "tokens",
        not wrong,
        "; ".join(wrong[:2]) or f"all {count:,} ids of {len(examples)} conversations",
        "the ids of the tokenizer's own chat template",
        "copy tokenizer.json, tokenizer_config.json and chat_template.jinja (or .json) from one and the same "
        "vision-language checkpoint",
    )


def _their_ids(tokenizer: Any, example: Example, processing: Processing) -> list[int]:
    """Ids by transformers alone: the template's text, each place of an image as often as the image has cells."""
    own = None if tokenizer.chat_template else processing.chat_template  # of chat_template.json, as processors read it
    messages = [*ask(example.prompt, len(example.images)), {"role": "assistant", "content": example.answer}]
    text = tokenizer.apply_chat_template(messages, chat_template=own, tokenize=False)
    before, *between = text.split(IMAGE_PAD)
    cells = example.features.grids.prod(1) // processing.family.merge_size**2
    if len(between) != len(cells):
        raise DataError(f"the template has {len(between)} places for {len(cells)} images")
    parts = (IMAGE_PAD * int(count) + rest for count, rest in zip(cells, between, strict=True))
    return tokenizer("".join([before, *parts]), add_special_tokens=False).input_ids


def check_labels(examples: Sequence[Example], processing: Processing) -> Verdict:
    """What the trained tokens say against the answers: all of each, its end-of-turn token, and nothing else."""
    wrong, trained, count = [], 0, 0
    end = decoded(processing, [processing.turn_end])
    for example in examples:
        labels = example.features.labels
        places = np.flatnonzero(labels != IGNORE)
        said = decoded(processing, labels[places].tolist())
        whole = len(places) and places[-1] - places[0] + 1 == len(places)
        same = (labels[places] == example.features.input_ids[places]).all()
        if said != example.answer + end or not whole or not same:
            wrong.append(f"{example.where}: {said[:60]!r} is trained, the answer is {example.answer[:60]!r}")
        trained, count = trained + len(places), count + len(labels)
    return Verdict(
        "labels",
        not wrong,
        "; ".join(wrong[:2]) or f"{trained:,} of {count:,} tokens trained (label_audit.txt shows them)",
        "every answer with its end of turn, and nothing else",
        "read label_audit.txt beside the chat template; take the template of the published checkpoint",
    )
