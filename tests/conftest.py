"""What the tests of the running parts share: a small random model, a data set on disk, and the objects of one run.

torch and Lightning are imported inside the fixtures, so that tests that need neither start at once.
"""

import atexit
import os
import shutil
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on busy cores run several times slower than one
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
if "QCVL_CACHE" not in os.environ:  # indices of test files are kept for one session
    os.environ["QCVL_CACHE"] = tempfile.mkdtemp(prefix="qcvl-tests-")
    atexit.register(shutil.rmtree, os.environ["QCVL_CACHE"], ignore_errors=True)

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf

# Property tests judge results, never speed: no deadlines, so a busy machine cannot fail them.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

CONF = Path(__file__).parents[1] / "conf"
QUANT = [  # what needs qcvl[quant]: make quant installs it and runs these
    pytest.mark.quant,
    pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs pip install qcvl[quant]"),
]
DEEPSPEED = [  # what needs qcvl[deepspeed]: make deepspeed installs it and runs these
    pytest.mark.deepspeed,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs pip install qcvl[deepspeed]"),
]
LIGER = [  # what needs qcvl[liger]: make liger installs it and runs these on the CPU, by Triton's interpreter
    pytest.mark.liger,
    pytest.mark.skipif(find_spec("liger_kernel") is None, reason="needs pip install qcvl[liger]"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 on a CPU"),
]
EMULATED = [  # what needs GPUs in software: make emulated builds them and runs these
    pytest.mark.emulated,
    pytest.mark.slow,
    pytest.mark.skipif("EMULATED_GPU" not in os.environ, reason="needs a library that make emulated builds"),
]
SHARED = Path(os.environ.get("QCVL_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data():
    """``shared_data("nasty")``: a folder of the shared test data; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        folder = SHARED / "data" / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there; set QCVL_SHARED to the folder that holds data/{name}")
        return folder

    return find


def choice(path: str) -> dict:
    """A YAML file under ``conf`` over those of its group that its defaults name, without its ``_target_``."""
    values = yaml.safe_load((CONF / path).read_text())
    if "defaults" in values:
        with initialize_config_dir(str((CONF / path).parent), version_base="1.3"):
            values = OmegaConf.to_container(compose(Path(path).stem))
    return {key: value for key, value in values.items() if key != "_target_"}


@pytest.fixture(scope="session")
def small_model():
    """``small_model(**changes)``: settings of ``model=tiny_scratch`` with fewer layers, for photos of 1-16 cells."""
    from qcvl.models.settings import ScratchModel

    def make(**changes) -> ScratchModel:
        values = choice("model/tiny_scratch.yaml") | {"min_cells": 1, "lr_multiplier": 1}
        architecture = values["architecture"]
        text = architecture["text_config"] | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        vision = architecture["vision_config"] | {"hidden_size": 48, "intermediate_size": 96, "depth": 2}
        vision["deepstack_visual_indexes"] = [0]
        values["architecture"] = architecture | {"text_config": text, "vision_config": vision}
        return ScratchModel(**values | changes)

    return make


@pytest.fixture(scope="session")
def processing(small_model):
    """The small model's tokenizer, template and pixel budget."""
    return small_model().load_processing()


@pytest.fixture(scope="session")
def prompts():
    """The English prompts of ``conf/prompts``."""
    from qcvl.schema.prompts import Prompts, TaskPrompt

    texts = choice("prompts/en.yaml")
    return Prompts(**{task: TaskPrompt(system=text["system"], user=text["user"]) for task, text in texts.items()})


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder with ``zh.jsonl`` (12 records) and ``en.jsonl`` (8): boxes, quads, polygons and lines, three sizes."""
    folder = tmp_path_factory.mktemp("scenes")
    for language, count in (("zh", 12), ("en", 8)):
        lines = [_write_scene(folder, index, language) for index in range(count)]
        (folder / f"{language}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def _write_scene(folder: Path, index: int, language: str) -> str:
    from PIL import Image

    from qcvl.data.scenes.draw import draw_scene
    from qcvl.data.scenes.surfaces import SIDE
    from qcvl.geometry.affine import scale_matrix, transform_shape
    from qcvl.geometry.shapes import Shape
    from qcvl.schema.records import Record

    scene = draw_scene(5, index, "demo", language)
    size = ((128, 128), (96, 64), (64, 128))[index % 3]
    matrix = scale_matrix(size[0] / SIDE, size[1] / SIDE)
    notes = [replace(note, shape=transform_shape(note.shape, matrix)) for note in scene.annotations]
    if index % 2:  # a quad written as a polygon
        notes = [replace(n, shape=Shape("poly", n.shape.points)) if n.shape.kind == "quad" else n for n in notes]
    file = f"{language}_{index}.png"
    Image.fromarray(scene.image).resize(size).save(folder / file)
    return Record(images=(file,), annotations=tuple(notes), sizes=(size,), summary=scene.summary).to_json() + "\n"


@pytest.fixture(scope="session")
def conversations(scenes):
    """The folder of ``scenes`` with ``chat.jsonl`` (6 records, every other one without image), ``text.jsonl`` (4)."""
    from qcvl.schema.records import Record
    from qcvl.schema.types import IMAGE, Message

    def write(name: str, records: list[Record]) -> None:
        (scenes / name).write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")

    def exchange(asked: tuple, number: int) -> tuple[Message, ...]:
        return Message("user", asked), Message("assistant", (f"answer {number}, {'very ' * number}sure",))

    alone = [Record(images=(), messages=exchange((f"question {n}?",), n), annotated=False) for n in range(6)]
    shown = [
        Record(
            images=(f"en_{n}.png", f"zh_{n}.png"),
            messages=(*exchange((IMAGE, f"what is {n}?"), n), *exchange(("and here?", IMAGE), n + 1)),
            annotated=False,
        )
        for n in range(6)
    ]
    write("chat.jsonl", [(alone if n % 2 else shown)[n] for n in range(6)])
    write("text.jsonl", alone[:4])
    return scenes


@pytest.fixture
def make_data(scenes):
    """``make_data(**changes)``: data settings over ``zh`` and ``en`` for training and ``en`` for validation."""
    from qcvl.data.settings import Data
    from qcvl.data.sources import JsonlSource

    def source(name: str, **changes) -> JsonlSource:
        return JsonlSource(**{"path": str(scenes / name), "repeat": 1, "task": None, "prompts": None} | changes)

    def make(**changes) -> Data:
        values = choice("data/jsonl.yaml") | {
            "train": {"zh": source("zh.jsonl"), "en": source("en.jsonl")},
            "val": {"val": source("en.jsonl")},
            "sampling": "mixed",
            "num_workers": 0,
        }
        return Data(**values | changes)

    make.source = source
    return make


@pytest.fixture
def make_datamodule(make_data, processing, prompts):
    """``make_datamodule(data=…, grounding=…)``: the data module over ``make_data()``, set up for training."""
    from qcvl.data.datamodule import VLDataModule
    from qcvl.schema.answer import DEFAULT_FORMAT

    def make(**changes) -> VLDataModule:
        values = {"data": make_data(), "processing": processing, "answer_format": DEFAULT_FORMAT, "prompts": prompts}
        values |= {"augment": None, "max_length": 4096, "seed": 3, "grounding": False, "pairing": None, "sp_degree": 1}
        datamodule = VLDataModule(**values | changes)
        datamodule.setup("fit")
        return datamodule

    return make


@pytest.fixture
def lora():
    """``lora(**changes)``: the tuner of ``tuner=lora`` at rank 4."""
    from qcvl.tuning.settings import PeftTuner

    return lambda **changes: PeftTuner(**choice("tuner/lora.yaml") | {"rank": 4, "alpha": 8} | changes)


@pytest.fixture
def make_module(small_model, processing, prompts):
    """``make_module(tuner=…, towers=[…], aux_grounding=…)``: an SFTModule (or ``objective``'s) over the small model."""
    import torch

    from qcvl.checkpoints.describe import describe
    from qcvl.modules.settings import SFT
    from qcvl.schema.answer import DEFAULT_FORMAT
    from qcvl.tuning.descent.settings import AdamW, CosineWarmupWithMinLr
    from qcvl.tuning.settings import FullTuner, TrainingStage

    def make(*, tuner=None, towers=("llm", "aligner"), rate=1e-3, model=None, objective=None, **changes):
        torch.manual_seed(0)  # a module's draws follow from the seed of the run it is built in
        model, tuner = model or small_model(), tuner or FullTuner()
        stage = choice("stage/2.yaml") | {"towers": list(towers), "rates": {"adapter": rate, "full": rate}}
        parts = {"model": model, "tuner": tuner, "stage": TrainingStage(**stage)}
        parts["processing"] = changes.pop("processing", processing)
        parts["contract"] = describe(answer_format=DEFAULT_FORMAT, prompts=prompts, pairing=None, **parts)
        parts |= {
            "optimizer": AdamW(**choice("optimizer/adamw.yaml")),
            "lr_scheduler": CosineWarmupWithMinLr(**choice("lr_scheduler/cosine_warmup_with_min_lr.yaml")),
            "init_from": None,
            "sp_degree": 1,
        }
        if objective is not None:
            return objective.setup(**parts | changes)
        objective = choice("objective/sft.yaml")
        objective["token_weights"] |= changes.pop("token_weights", {})
        own = ("aux_grounding", "load_balance", "max_nonfinite_steps")
        objective |= {name: changes.pop(name) for name in own if name in changes}
        return SFT(**objective).setup(**parts | changes)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """``make_trainer(**changes)``: a silent CPU Trainer that logs each step to ``logging.jsonl``."""
    import lightning.pytorch as pl

    from qcvl.callbacks.jsonl_logger import JsonlLogger

    def make(folder: Path | None = None, **changes) -> pl.Trainer:
        logger = JsonlLogger(str((folder or tmp_path) / "logging.jsonl"))
        values = choice("trainer/default.yaml") | {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1}
        values |= {"enable_progress_bar": False, "enable_checkpointing": False, "logger": logger}
        values |= {"default_root_dir": str(folder or tmp_path)}
        del values["_partial_"]
        return pl.Trainer(**values | changes)

    return make


@pytest.fixture
def logged(tmp_path):
    """``logged("train/loss")``: the values of one key in ``logging.jsonl``, in order."""
    import json

    def read(key: str, folder: Path | None = None) -> list[float]:
        rows = map(json.loads, ((folder or tmp_path) / "logging.jsonl").read_text().splitlines())
        return [row[key] for row in rows if key in row]

    return read


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A photo of noise, uint8 RGB ``[height, width, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_pairs(folder: Path, count: int, size_wh: tuple[int, int]) -> Path:
    """``pairs.jsonl`` of aligned pairs: two photos of noise, one box each, and the board ``b0`` or ``b1``."""
    import json

    from PIL import Image

    lines = []
    for index in range(count):
        names = [f"{kind}{index}.png" for kind in ("photo", "template")]
        for place, name in enumerate(names):
            Image.fromarray(photo(*size_wh, seed=2 * index + place)).save(folder / name)
        box = {"bbox_2d": [20 * index + 5, 20, 20 * index + 35, 60], "desc": "plate", "image": 0}
        row = {"images": names, "metadata": {"board": f"b{index % 2}"}, "objects": [box]}
        lines.append(json.dumps(row) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder / "pairs.jsonl"


def problems_in(path: Path) -> list:
    """Everything that a check finds wrong with the lines of a JSONL file, in file order."""
    from qcvl.data.sources import JsonlSource
    from qcvl.doctor.reading import read_blocks

    blocks = read_blocks(JsonlSource(path=str(path), repeat=1, task=None, prompts=None), 100)
    return [problem for block in blocks for _, problems in block.entries() for problem in problems]


@pytest.fixture
def triton_interpreter(monkeypatch):
    """Triton's interpreter with what Liger's kernels ask of it: float arguments as tensors, and CUDA's rsqrt."""
    from triton import language as tl
    from triton.runtime import interpreter

    original = interpreter._implicit_cvt

    def convert(value):
        if isinstance(value, float):
            return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)
        return original(value)

    monkeypatch.setattr(interpreter, "_implicit_cvt", convert)
    monkeypatch.setattr("liger_kernel.ops.rms_norm.rsqrt", lambda value: tl.rsqrt(value))
