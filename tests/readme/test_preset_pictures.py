"""The saved pictures of the presets show what the presets do: each is drawn again and compared.

A new one, after a preset changed: the sheet of the command below, 900 pixels wide, as a JPEG of quality 80.
python -m qcvl.visualize augment=PRESET split=train limit=1 draws=5
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcvl import config
from qcvl.visualize import visualize

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".github" / "augment"
PRESETS = sorted(path.stem for path in (REPOSITORY / "conf" / "augment").glob("*.yaml") if path.stem != "none")


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_each_preset_has_a_picture_and_each_picture_a_preset():
    assert sorted(path.stem for path in FOLDER.iterdir()) == PRESETS


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_saved_picture_is_what_the_preset_draws(preset, demo, tmp_path):
    overrides = ["split=train", "limit=1", "draws=5", f"paths.data_dir={demo}", f"paths.output_dir={tmp_path}"]
    sheet = visualize(config.load("visualize", [f"augment={preset}", *overrides]))[-1]
    with Image.open(sheet) as drawn, Image.open(FOLDER / f"{preset}.jpg") as saved:
        small = drawn.convert("RGB").resize((900, round(drawn.height * 900 / drawn.width)), Image.Resampling.LANCZOS)
        small.save(tmp_path / "again.jpg", quality=80, optimize=True)
        with Image.open(tmp_path / "again.jpg") as again:
            difference = np.abs(np.asarray(again, np.int16) - np.asarray(saved, np.int16))
    assert difference.mean() < 0.5  # grey levels; another draw of one photo makes it 1.5
