"""What benchmarks/training.py trains, and how its contenders take turns."""

import os

import pytest


@pytest.fixture
def parts(readme, monkeypatch):
    monkeypatch.syspath_prepend(readme.checkout / "benchmarks")
    from trainers import turns, workload

    return turns, workload


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
import torch
from trainers.turns import Turns
turns = Turns(int(sys.argv[sys.argv.index("--core") + 1]), samples=2)
name = sys.argv[sys.argv.index("--contender") + 1]
model = torch.nn.Linear(3, 1)
print("noise of a trainer")
for _ in range(4):
    turns.wait(model)
    with Path(sys.argv[sys.argv.index("--work") + 1], "order").open("a") as order:
        order.write(name)
    model(torch.ones(5, 3))
    turns.count(1, 10 if name != "c" else 11, 4, places=20)
    turns.done()
"""


@pytest.fixture
def race(parts, readme, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(benchmarks=str(readme.checkout / "benchmarks")))
    core = max(os.sched_getaffinity(0))
    return lambda names: parts[0].race(str(script), names, tmp_path, samples=2, passes=2, core=core)


@pytest.mark.slow
def test_contenders_train_in_turns_and_memory_leaves_out_what_full_training_needs(race, tmp_path):
    speeds = race(["a", "b"])
    assert (tmp_path / "order").read_text() == "abababab"
    assert all(len(speed.rates) == 2 and speed.rate > 0 for speed in speeds.values())
    assert all(speed.extra - speed.activations == 12 * 4 for speed in speeds.values())
    assert all(speed.padding == 0.5 and speed.operations == 2 * (2 * 5 * 3 * 1) / 20 for speed in speeds.values())
    assert all(len(speed.turns) == 4 and speed.peak > speed.extra for speed in speeds.values())
    assert all(turn.wall > 0 for speed in speeds.values() for turn in speed.turns)


@pytest.mark.slow
def test_a_race_over_other_tokens_is_refused(race):
    with pytest.raises(RuntimeError, match="must train the same"):
        race(["a", "c"])


def test_a_cut_tokenizer_has_the_asked_ids_and_gives_every_text_back(parts, shared_data, tmp_path):
    from transformers import AutoTokenizer

    folder = parts[1].write_tokenizer(shared_data("tokenizer"), tmp_path / "cut", 16_384)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = '{"object_1": {"bbox_2d": [100, 200, 300, 400], "desc": "BBU设备"}}'
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert max(tokenizer.get_vocab().values()) == 16_383
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == 16_384 - 2


def test_chats_are_records_that_differ(parts):
    from qcvl.schema.records import Record

    lines = list(parts[1].chat_lines(20))
    assert len(set(lines)) > 15
    assert all(Record.from_json(line, path="chat.jsonl", line=1).messages for line in lines)


def test_records_are_spread_evenly_and_start_again_where_there_are_too_few(parts):
    assert parts[1].spread(list("abcdef"), 3) == ["a", "c", "e"]
    assert parts[1].spread(list("ab"), 5) == list("ababa")
