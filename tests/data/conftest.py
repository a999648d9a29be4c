"""The real Qwen3 tokenizer, where the shared data are."""

import lzma
import shutil
from pathlib import Path

import pytest

from tests.conftest import CONF


@pytest.fixture(scope="session")
def qwen3(shared_data, tmp_path_factory):
    """The real Qwen3 tokenizer with the embedded model's template, as a Qwen3-VL's processing of 1-16 cells."""
    from qcvl.models.spec import load_processing

    found, folder = shared_data("tokenizer"), tmp_path_factory.mktemp("qwen3")
    (folder / "tokenizer.json").write_bytes(lzma.decompress((found / "tokenizer.json.xz").read_bytes()))
    shutil.copy(found / "tokenizer_config.json", folder)
    shutil.copy(Path(CONF).parent / "qcvl/models/tiny/chat_template.jinja", folder)
    return load_processing(folder, {"model_type": "qwen3_vl"}, min_cells=1, max_cells=16)
