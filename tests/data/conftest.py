"""The real Qwen3 tokenizer, where the shared data are, and files of other tools."""

import json
import lzma
import shutil
from pathlib import Path

import pytest

from qcvl.errors import RecordError
from qcvl.schema.records import Record
from tests.conftest import CONF
from tests.data.chat_samples import opened


@pytest.fixture(scope="session")
def qwen3(shared_data, tmp_path_factory):
    """The real Qwen3 tokenizer with the embedded model's template, as a Qwen3-VL's processing of 1-16 cells."""
    from qcvl.models.spec import load_processing

    found, folder = shared_data("tokenizer"), tmp_path_factory.mktemp("qwen3")
    (folder / "tokenizer.json").write_bytes(lzma.decompress((found / "tokenizer.json.xz").read_bytes()))
    shutil.copy(found / "tokenizer_config.json", folder)
    shutil.copy(Path(CONF).parent / "qcvl/models/tiny/chat_template.jinja", folder)
    return load_processing(folder, {"model_type": "qwen3_vl"}, min_cells=1, max_cells=16)


@pytest.fixture
def read(tmp_path):
    """``read(format, sample, …)``: the records of these samples, a file in ``in/`` read for a JSONL file beside it."""

    def run(name: str, *samples, file="in/data.json") -> list[Record]:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(samples, ensure_ascii=False), encoding="utf-8")
        return opened(name, path, tmp_path)

    return run


@pytest.fixture
def refusal(read, tmp_path):
    """``refusal(format, sample)``: why the second of two samples is refused, without the file's name."""

    def run(name: str, sample) -> str:
        with pytest.raises(RecordError) as caught:
            read(name, [], sample)
        message = str(caught.value)
        start = f"{tmp_path}/in/data.json: [1]."
        assert message.startswith(start), message
        return message.removeprefix(start)

    return run
