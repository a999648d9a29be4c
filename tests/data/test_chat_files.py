"""Files of conversations as users of other tools have them."""

import json
import re

import pytest
from PIL import Image

from qcvl.errors import DataError, RecordError
from qcvl.schema.records import Record
from qcvl.schema.types import VIDEO
from qcvl.schema.videos import Video
from tests.data.chat_samples import as_read_again, opened


@pytest.mark.parametrize(
    ("name", "file", "records", "turns"),
    [
        ("qwen_conversations", "qwen-vl-finetune/demo/single_images.json", 3, 6),
        ("sharegpt", "llama-factory/mllm_demo.json", 6, 24),
        ("sharegpt", "ms-swift/conversations.jsonl", 3, 11),
        ("ms_swift", "llama-factory/mllm_demo.json", 6, 24),
        ("ms_swift", "ms-swift/alpaca.jsonl", 3, 9),
        ("ms_swift", "ms-swift/chatml.jsonl", 3, 11),
        ("ms_swift", "ms-swift/conversations.jsonl", 3, 11),
        ("ms_swift", "ms-swift/multi_modal_1.jsonl", 3, 12),
        ("ms_swift", "ms-swift/multi_modal_2.jsonl", 3, 10),
        ("messages", "ms-swift/chatml.jsonl", 3, 11),
    ],
)
def test_the_files_of_other_tools_are_read_unchanged(shared_data, tmp_path, name, file, records, turns):
    path = shared_data("formats") / file
    found = opened(name, path, tmp_path)
    assert (len(found), sum(len(record.messages) for record in found)) == (records, turns)
    assert [as_read_again(record) for record in found] == found


def read_line_by_line(path, tmp_path) -> list:
    """Of each line of an ms-swift file, the record or why it is refused."""
    found = []
    for line in path.read_text().splitlines():
        (tmp_path / "line.jsonl").write_text(line)
        try:
            found += opened("ms_swift", tmp_path / "line.jsonl", tmp_path)
        except DataError as problem:
            found.append(str(problem).removeprefix(f"{tmp_path}/line.jsonl:1: "))
    return found


def test_of_the_multimodal_examples_of_ms_swift_each_is_read_or_refused_by_name(shared_data, tmp_path):
    found = read_line_by_line(shared_data("formats") / "ms-swift/multimodal_en.jsonl", tmp_path)
    refused = {number: reason for number, reason in enumerate(found) if isinstance(reason, str)}
    starts = {
        0: "messages[1].loss is false",
        6: 'messages[0].role is "assistant"; expected "user"',
        7: 'messages[0].role is "assistant"; expected "user"',
        10: "messages[2].content holds the tag <image>, but images stand in user turns",
    }
    assert refused.keys() == starts.keys() and len(found) == 11
    assert all(reason.startswith(starts[number]) for number, reason in refused.items())
    assert found[1].metadata.keys() == {"rejected_messages", "rejected_images"}


def test_the_grounding_examples_of_ms_swift_are_filled_once_their_photos_are_there(shared_data, tmp_path):
    path = shared_data("formats") / "ms-swift/grounding_en.jsonl"
    found = read_line_by_line(path, tmp_path)
    assert [isinstance(item, Record) for item in found] == [True] * 3 + [False] * 4
    assert all("not found" in reason for reason in found[3:])
    Image.new("RGB", (1500, 1800)).save(tmp_path / "x.jpg")
    Image.new("RGB", (900, 800)).save(tmp_path / "cat.png")
    (tmp_path / "all.jsonl").write_text(path.read_text().replace("/xxx/", ""))
    records = opened("ms_swift", tmp_path / "all.jsonl", tmp_path)
    answers = [record.messages[-1].parts[0] for record in records]
    assert answers[3] == "a dog[221, 423, 569, 886] and a woman[451, 381, 733, 793] are playing on the beach"
    assert answers[5] == "Action: click(start_box='[410, 126]')"
    boxes = [[101, 201, 150, 266], [401, 601, 550, 666]]  # as the second example has them, rendered by hand
    assert json.loads(answers[6]) == [{"bbox_2d": box, "label": "sheep"} for box in boxes]


def test_of_the_printed_examples_of_qwen_the_sound_ones_are_read(shared_data, tmp_path):
    text = (shared_data("formats") / "qwen-vl-finetune/README_data_examples.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    found = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.json"
        path.write_text(block)
        try:
            found.append(len(opened("qwen_conversations", path, tmp_path)))
        except RecordError as problem:
            found.append(str(problem).removeprefix(f"{path}:"))
    assert found[:3] + found[4:] == [1, 1, 1, 2]
    assert found[3].startswith("10: is not valid JSON")  # quotes inside a text, as printed


def test_the_video_examples_of_qwen_are_read(shared_data, tmp_path):
    path = shared_data("formats") / "qwen-vl-finetune/demo/video.json"
    records = opened("qwen_conversations", path, path.parent)
    assert [record.videos for record in records] == [
        (Video(sample["video"]),) for sample in json.loads(path.read_text())
    ]
    assert all(record.messages[0].parts[0] == VIDEO for record in records)
    assert [as_read_again(record) for record in records] == records
