"""The presets of conf/augment: they build, list every setting, and take ops from outside the package."""

import functools
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate

from qcvl import config
from qcvl.augment.actions import NOT_DRAWN, Probability, Recolor, Skip
from qcvl.augment.base import Compose
from qcvl.errors import ConfigError
from qcvl.schema.settings import settings

CONF = config.CONF_DIR / "augment"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))
KEY = (0, 0, 0)


@settings
class Invert:
    """The negative of the photo: an op that lives outside the package."""

    p: Probability

    def draw(self, view, rng):
        """255 minus each value, with probability ``p``."""
        return Recolor(lambda image: 255 - image) if rng.random() < self.p else Skip(NOT_DRAWN)


@functools.cache
def composed(preset, *overrides):
    """``conf/augment`` as a run gets it; overrides are written as under ``augment``."""
    return config.load("train", [f"augment={preset}", *(f"augment.{override}" for override in overrides)]).augment


def built(preset, *overrides):
    return instantiate(composed(preset, *overrides), _convert_="all")


def test_the_presets_are_those_that_are_promised():
    assert set(PRESETS) == {"none", "light", "dense", "strong", "color", "industrial", "aerial"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_builds_a_pipeline_whose_yaml_lists_every_field(preset):
    node_of_all = composed(preset)
    pipeline = built(preset)
    assert isinstance(pipeline, Compose)
    nodes = [(node_of_all, pipeline), *((node_of_all.ops[name], op) for name, op in pipeline.ops.items())]
    for node, made in nodes:
        assert set(node) - {"_target_"} == {field.name for field in fields(made)}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_all_ops_and_says_only_its_order_and_changed_numbers(preset):
    assert composed(preset).ops.keys() == composed("none").ops.keys()
    own = yaml.safe_load((CONF / f"{preset}.yaml").read_text(encoding="utf-8"))
    if preset != "none":
        assert own.keys() <= {"defaults", "order", "ops"}
        assert set(own.get("ops", {})) <= set(own["order"])
        assert composed(preset).order == own["order"]


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
    given = f"ops.invert={{_target_: {__name__}.Invert, p: 1.0}}"
    sample = make_sample()
    out = built("light", "order=[invert]", given)(sample, KEY)
    assert np.array_equal(out.images[0], 255 - sample.images[0])
    assert out.telemetry["invert/applied"] == 1


def test_augment_prob_is_one_minus_the_share_left_untouched(make_sample):
    sample = make_sample()
    share = {}
    for given in ("augment_prob=0.7", "bypass_prob=0.3"):
        pipeline = built("light", "order=[hflip]", "ops.hflip.p=1.0", given)
        outs = [pipeline(sample, (0, 0, index)) for index in range(400)]
        share[given] = [out.telemetry.get("bypass/applied", 0) for out in outs]
    assert share["augment_prob=0.7"] == share["bypass_prob=0.3"]
    assert abs(sum(share["bypass_prob=0.3"]) - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5


def test_augment_prob_and_bypass_prob_at_once_are_refused():
    cfg = config.load("train", ["augment=light", "augment.augment_prob=0.7", "augment.bypass_prob=0.3"])
    with pytest.raises(ConfigError, match=r"augment_prob 0\.7 and .*bypass_prob 0\.3 say the same thing twice"):
        config.validate(cfg)


def test_color_moves_nothing(make_sample):
    sample = make_sample(("bbox_2d", [5, 5, 20, 20]), ("quad", [50.3, 30.1, 10.7, 5.2, 30, 3, 20, 39]))
    pipeline = built("color")
    outs = [pipeline(sample, (0, 0, index)) for index in range(20)]
    assert all(out.annotations == sample.annotations for out in outs)
    assert sum(not np.array_equal(out.images[0], sample.images[0]) for out in outs) > 10


def test_building_every_preset_imports_neither_torch_nor_albumentations():
    code = (
        "import sys, qcvl.augment.base, qcvl.augment.spatial, qcvl.augment.crop, qcvl.augment.color;"
        "print([name for name in ('torch', 'transformers', 'albumentations', 'hydra') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
