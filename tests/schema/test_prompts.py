"""The shipped prompts and answer formats: complete, short, and what the parsers expect."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from qcvl.geometry.shapes import KINDS
from qcvl.schema import AnswerFormat, parse_verdict
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.prompts import Prompts, TaskPrompt
from qcvl.schema.types import TASKS

CONF = Path(__file__).parents[2] / "conf"


def shipped(file):
    return yaml.safe_load((CONF / file).read_text(encoding="utf-8"))


def prompts(language):
    def strip(node):
        return {
            key: strip(value) if isinstance(value, dict) else value for key, value in node.items() if key != "_target_"
        }

    raw = strip(shipped(f"prompts/{language}.yaml"))
    return Prompts(**{task: TaskPrompt(**texts) for task, texts in raw.items()})


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_task_has_its_own_short_prompt(language):
    texts = {task: prompts(language).for_task(task) for task in TASKS}
    assert len({prompt.user for prompt in texts.values()}) == len(TASKS)
    for prompt in texts.values():
        whole = f"{prompt.system} {prompt.user}"
        assert len(whole) <= 80 if language == "zh" else len(whole.split()) <= 40


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_dense_prompt_names_every_geometry_and_the_grid(language):
    user = prompts(language).dense.user
    assert all(kind in user for kind in KINDS) and "0-1000" in user and "desc" in user


@pytest.mark.parametrize(("language", "word"), [("zh", "不通过"), ("en", "fail")])
def test_an_answer_as_the_chat_prompt_asks_for_is_in_format(language, word):
    user = prompts(language).chat.user
    assert f"Verdict: {word}" in user and "Reason:" in user
    verdict = parse_verdict(f"Verdict: {word}\nReason: x")
    assert verdict.verdict == "fail" and verdict.format_ok


@pytest.mark.parametrize("form", ["objects", "list"])
def test_answer_files_list_every_field_and_differ_in_form_only(form):
    raw = shipped(f"answer/{form}.yaml")
    assert raw.pop("_target_") == f"{AnswerFormat.__module__}.AnswerFormat"
    assert set(raw) == {field.name for field in fields(AnswerFormat)}
    assert raw == {**{name: getattr(DEFAULT_FORMAT, name) for name in raw}, "form": form}


def test_settings_refuse_unknown_and_missing_fields():
    raw = {field.name: getattr(DEFAULT_FORMAT, field.name) for field in fields(AnswerFormat)}
    for wrong in ({**raw, "emit_nrom": "none"}, {**raw, "emit_norm": "norm10"}, {"form": "list"}):
        with pytest.raises(ValidationError):
            AnswerFormat(**wrong)
