"""The presets of conf/augment: they build, list every setting, and take ops from outside the package."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from qcvl.augment.actions import NOT_DRAWN, Probability, Recolor, Skip
from qcvl.augment.base import Compose
from qcvl.schema.settings import settings

CONF = Path(__file__).parents[2] / "conf" / "augment"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))
KEY = (0, 0, 0)


@settings
class Invert:
    """The negative of the photo: an op that lives outside the package."""

    p: Probability

    def draw(self, view, rng):
        """255 minus each value, with probability ``p``."""
        return Recolor(lambda image: 255 - image) if rng.random() < self.p else Skip(NOT_DRAWN)


def built(preset, *overrides):
    config = OmegaConf.merge(OmegaConf.load(CONF / f"{preset}.yaml"), OmegaConf.from_dotlist(list(overrides)))
    return instantiate(config, _convert_="all")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_builds_a_pipeline_whose_yaml_lists_every_field(preset):
    config = OmegaConf.load(CONF / f"{preset}.yaml")
    pipeline = built(preset)
    assert isinstance(pipeline, Compose)
    for node, made in [(config, pipeline), *((config.ops[name], op) for name, op in pipeline.ops.items())]:
        assert set(node) - {"_target_"} == {field.name for field in fields(made)}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_samples_of_every_task(preset, make_sample):
    pipeline = built(preset, "ops.hflip.p=1.0")
    shapes = [("bbox_2d", [5, 5, 20, 20]), ("quad", [30, 5, 50, 10, 45, 30, 28, 25]), ("line", [0, 39, 60, 0])]
    for task in ("dense", "summary", "chat"):
        out = pipeline(make_sample(*shapes, task=task, summary="three parts"), KEY)
        assert len(out.annotations) == len(out.kept_indices) == len(out.coverages)


def test_none_changes_nothing(make_sample):
    sample = make_sample(("bbox_2d", [5, 5, 20, 20]))
    out = built("none")(sample, KEY)
    assert out.images[0] is sample.images[0]
    assert out.annotations == sample.annotations


def test_dense_has_the_numbers_of_the_field():
    pipeline = built("dense")
    assert pipeline.order == ["hflip", "rotate", "color_jitter", "pad_to_multiple"]
    assert (pipeline.ops["hflip"].p, pipeline.ops["rotate"].p, pipeline.ops["color_jitter"].p) == (0.3, 0.3, 0.3)
    assert pipeline.ops["rotate"].max_rotation_degrees == 15.0
    assert pipeline.ops["color_jitter"].brightness == (0.85, 1.15)
    assert pipeline.ops["pad_to_multiple"].multiple == 32


def test_one_override_turns_an_op_up(make_sample):
    sample = make_sample()
    assert built("dense", "ops.rotate.p=1.0")(sample, KEY).telemetry["rotate/applied"] == 1
    assert built("dense", "ops.rotate.p=0.0")(sample, KEY).telemetry["rotate/skipped"] == 1


def test_an_op_from_outside_the_package_works_by_its_dotted_path(make_sample):
    config = OmegaConf.load(CONF / "light.yaml")
    config.ops.invert = {"_target_": f"{__name__}.Invert", "p": 1.0}
    config.order = ["invert"]
    sample = make_sample()
    out = instantiate(config, _convert_="all")(sample, KEY)
    assert np.array_equal(out.images[0], 255 - sample.images[0])
    assert out.telemetry["invert/applied"] == 1


def test_building_every_preset_imports_neither_torch_nor_albumentations():
    code = (
        "import sys, qcvl.augment.base, qcvl.augment.spatial, qcvl.augment.crop, qcvl.augment.color;"
        "print([name for name in ('torch', 'transformers', 'albumentations', 'hydra') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
