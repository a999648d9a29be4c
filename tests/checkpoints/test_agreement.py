"""A checkpoint of another tokenizer or chat template is refused, with what to change."""

import json
from dataclasses import replace

import pytest

from qcvl.checkpoints.agreement import require_same_text
from qcvl.errors import CheckpointError


@pytest.fixture
def folder(processing, tmp_path):
    processing.save(tmp_path)
    return tmp_path


def test_the_processing_a_folder_was_saved_with_is_the_same(folder, processing):
    require_same_text(folder, processing, "resume")


def test_a_token_of_another_number_is_named_with_both(folder, processing):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = tokenizer["added_tokens"][0]
    number, added["id"] = added["id"], 9999
    path.write_text(json.dumps(tokenizer))
    told = rf"^stage.init_from: 1 tokens of .* first '{added['content'].replace('|', '.')}': 9999 in the checkpoint, "
    with pytest.raises(CheckpointError, match=told + f"{number} now; set model to"):
        require_same_text(folder, processing, "stage.init_from")


def test_another_template_is_refused_and_its_first_line_that_differs_named(folder, processing):
    lines = processing.chat_template.splitlines()
    lines[2] += "{# changed #}"
    other = replace(processing, chat_template="\n".join(lines))
    with pytest.raises(CheckpointError, match=r"^resume: the chat template of .* first in line 3; set model to what"):
        require_same_text(folder, other, "resume")
