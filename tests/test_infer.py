"""What ``qcvl.infer`` answers about."""

import json

import pytest

from qcvl.errors import DataError
from qcvl.infer import records_of

TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def test_a_record_without_image_is_refused_before_a_model_is_opened(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"images": ["a.png"], "messages": TALK}) + "\n")
    assert [record.images for record in records_of(path)] == [("a.png",)]
    path.write_text(path.read_text() + json.dumps({"messages": TALK}) + "\n")
    with pytest.raises(DataError, match=r"talk\.jsonl:2: has no image to answer about; leave the record out"):
        records_of(path)
