"""What a checkpoint expects of its input: patch grid, tokenizer, chat template and pixel budget."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qcvl.errors import CheckpointError
from qcvl.geometry.grid import EmitNorm
from qcvl.models.folders import read_json
from qcvl.models.light import LightTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HALF = (0.5, 0.5, 0.5)  # Qwen3-VL's preprocessor_config.json
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # transformers.image_utils.OPENAI_CLIP_MEAN, used by Qwen2 and 2.5-VL
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# model_type: (patch side in pixels, image mean, image std, the convention its grounding data was written in)
FAMILIES: dict[str, tuple[int, tuple[float, ...], tuple[float, ...], EmitNorm]] = {
    "qwen3_vl": (16, HALF, HALF, "norm1000"),
    "qwen3_vl_moe": (16, HALF, HALF, "norm1000"),
    "qwen2_5_vl": (14, CLIP_MEAN, CLIP_STD, "none"),
    "qwen2_vl": (14, CLIP_MEAN, CLIP_STD, "norm1000"),
}
TIMES_IN_TEXT = ("qwen3_vl", "qwen3_vl_moe")  # the others have the time of a frame in its position alone
TOKENS_PER_SECOND = {"qwen2_5_vl": 4.0}  # time positions in a second of video, where config.json does not say
BICUBIC = 3  # PIL.Image.Resampling.BICUBIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The patch grid of one model type: sides in pixels, merge factor, and how pixel values are normalised.

    ``tokens_per_second`` is how far time positions move in a second of video; None: by one from frame to frame.
    """

    model_type: str
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    emit_norm: EmitNorm
    tokens_per_second: float | None

    @property
    def factor(self) -> int:
        """Side in pixels of one merged cell, i.e. of one visual token: 32 for Qwen3-VL, 28 for Qwen2.5-VL."""
        return self.patch_size * self.merge_size

    @property
    def times_in_text(self) -> bool:
        """Whether each group of video frames is written as its time and a run of visual tokens of its own."""
        return self.model_type in TIMES_IN_TEXT

    @property
    def patch_values(self) -> int:
        """Numbers in one patch row: channels * temporal patch * side * side, 1536 for Qwen3-VL."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @classmethod
    def from_config(cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any], where: object) -> "Family":
        """The family of a ``config.json`` (by its ``model_type``), normalised as ``preprocessor_config.json`` says.

        Raises:
            CheckpointError: for a model type qcvl does not train, or patch sides on which the two files disagree.
        """
        model_type = config.get("model_type")
        if model_type not in FAMILIES:
            raise CheckpointError(
                f"{where}: config.json says model_type {model_type!r}; expected one of {', '.join(FAMILIES)}. "
                "Set model.path to a Qwen vision-language checkpoint"
            )
        patch_size, mean, std, emit_norm = FAMILIES[model_type]
        vision = config.get("vision_config") or {}
        pace = TOKENS_PER_SECOND.get(model_type)
        family = cls(
            model_type=model_type,
            patch_size=vision.get("patch_size", patch_size),
            merge_size=vision.get("spatial_merge_size", 2),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            image_mean=tuple(preprocessor.get("image_mean") or mean),
            image_std=tuple(preprocessor.get("image_std") or std),
            emit_norm=emit_norm,
            tokens_per_second=None if pace is None else vision.get("tokens_per_second", pace),
        )
        told = {"patch_size": family.patch_size, "merge_size": family.merge_size}
        for name, value in told.items():
            if preprocessor.get(name, value) != value:
                raise CheckpointError(
                    f"{where}: preprocessor_config.json says {name} {preprocessor[name]}, config.json says {value}; "
                    "the two files belong to different models"
                )
        return family


@dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity, as its tokenizer is
class Processing:
    """Everything that turns text and pixels into the model's input, without its weights.

    ``min_pixels`` and ``max_pixels`` bound an image's area after resizing; ``resample`` is a PIL resampling number.
    """

    tokenizer: "PreTrainedTokenizerBase"
    chat_template: str
    family: Family
    min_pixels: int
    max_pixels: int
    resample: int = BICUBIC

    def token_id(self, token: str) -> int:
        """The id of one special token; a CheckpointError when the tokenizer does not have it as a single token."""
        index = self.tokenizer.get_vocab().get(token)
        if index is None:
            raise CheckpointError(
                f"the tokenizer of {self.tokenizer.name_or_path} has no token {token}; it is not a vision-language "
                "tokenizer. Copy tokenizer.json from the vision-language checkpoint"
            )
        return index

    @cached_property
    def image_pad(self) -> int:
        """Id of ``<|image_pad|>``, one per merged cell."""
        return self.token_id("<|image_pad|>")

    @cached_property
    def video_pad(self) -> int:
        """Id of ``<|video_pad|>``, one per merged cell of a frame pair."""
        return self.token_id("<|video_pad|>")

    @cached_property
    def vision_start(self) -> int:
        """Id of ``<|vision_start|>``."""
        return self.token_id("<|vision_start|>")

    @cached_property
    def vision_end(self) -> int:
        """Id of ``<|vision_end|>``."""
        return self.token_id("<|vision_end|>")

    @cached_property
    def turn_start(self) -> int:
        """Id of ``<|im_start|>``, which opens a turn."""
        return self.token_id("<|im_start|>")

    @cached_property
    def turn_end(self) -> int:
        """Id of ``<|im_end|>``, which ends a turn and therefore an answer."""
        return self.token_id("<|im_end|>")

    @cached_property
    def pad(self) -> int:
        """Id used for padding in generation: the tokenizer's pad token, else ``<|endoftext|>``."""
        own = self.tokenizer.pad_token_id
        return own if own is not None else self.token_id("<|endoftext|>")

    def image_settings(self) -> dict[str, Any]:
        """The content of ``preprocessor_config.json``: what `AutoImageProcessor` needs to cut the same patches."""
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            "resample": self.resample,
            "rescale_factor": 1 / 255,
            "patch_size": self.family.patch_size,
            "temporal_patch_size": self.family.temporal_patch_size,
            "merge_size": self.family.merge_size,
            "image_mean": list(self.family.image_mean),
            "image_std": list(self.family.image_std),
        }

    def save(self, folder: str | Path) -> None:
        """Write tokenizer files, ``chat_template.jinja`` and ``preprocessor_config.json`` into ``folder``.

        `AutoTokenizer.from_pretrained(folder)` and `AutoImageProcessor.from_pretrained(folder, backend="pil")` read
        them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
        text = json.dumps(self.image_settings(), indent=2, ensure_ascii=False)
        (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def load_processing(
    folder: Path,
    config: Mapping[str, Any],
    min_cells: int,
    max_cells: int,
    *,
    light: bool = False,
    borrowed: bool = False,
) -> Processing:
    """The processing of a local folder with tokenizer files, for the model that ``config`` describes.

    Args:
        folder: holds tokenizer.json and a chat template for images.
        config: the model's ``config.json``, from which the family is read.
        min_cells: smallest number of merged cells (visual tokens) an image is resized to.
        max_cells: largest number of merged cells.
        light: read the tokenizer without transformers, to count tokens and no more.
        borrowed: the folder is another model's, of which the words are taken and not how images are cut.
    """
    family = Family.from_config(config, {} if borrowed else read_image_settings(folder), folder)
    tokenizer = cast("PreTrainedTokenizerBase", LightTokenizer(folder)) if light else _load_tokenizer(folder)
    cell = family.factor**2
    return Processing(
        tokenizer=tokenizer,
        chat_template=_read_chat_template(folder, tokenizer),
        family=family,
        min_pixels=min_cells * cell,
        max_pixels=max_cells * cell,
    )


def read_image_settings(folder: Path) -> dict[str, Any]:
    """``preprocessor_config.json`` of a folder, or the image part of ``processor_config.json``, or nothing."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        return read_json(folder / "processor_config.json").get("image_processor", {})
    return {}


def _load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(f"{folder} has no tokenizer.json; copy the tokenizer files of its base model into it")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _read_chat_template(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The folder's chat template; one that cannot place an image is refused."""
    template = tokenizer.chat_template
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    elif (folder / "chat_template.json").is_file():  # how Qwen2.5-VL and the first Qwen3-VL checkpoints carry it
        template = read_json(folder / "chat_template.json").get("chat_template")
    if not isinstance(template, str) or "<|image_pad|>" not in template:
        found = "a chat template without <|image_pad|> (text only)" if template else "no chat template"
        raise CheckpointError(f"{folder} has {found}; copy chat_template.jinja from the vision-language checkpoint")
    return template
