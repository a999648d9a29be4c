"""What a short training must show: each check passes, and fails where one thing is off."""

import pytest

from qcvl.doctor.training import GIB, check_answers, check_memory, check_reload, check_speed
from qcvl.models.memory import StepMemory


class Record:
    """Stands in for an example: where it stands and its answer."""

    def __init__(self, number: int) -> None:
        self.where, self.answer = f"train.jsonl:{number}", f"answer {number}"


RECORDS = [Record(number) for number in range(4)]
TOLD = [record.answer for record in RECORDS]


def test_all_answers_must_be_exact_to_the_last_character():
    verdict = check_answers(TOLD, RECORDS, [3.0, 0.5, 0.0251])
    assert verdict.passed and verdict.found == "4 of 4 answers exact; loss 3 to 0.0251 in 3 steps"
    verdict = check_answers([*TOLD[:2], "answer 2 ", TOLD[3]], RECORDS, [3.0, 0.5])
    assert not verdict.passed and "3 of 4 answers exact" in verdict.found
    assert "train.jsonl:2: 'answer 2 '" in verdict.found and "trainer.max_steps" in verdict.advice
    assert not check_answers([], [], [3.0]).passed


def test_a_reloaded_model_must_say_the_same_right_or_wrong():
    assert check_reload(["a", "b"], ["a", "b"], 3 * GIB).found == "2 of 2 answers the same, 3 GiB merged"
    verdict = check_reload(["a", "b"], ["a", "c"], 2**20)
    assert not verdict.passed and "1 of 2 answers the same, 1 MiB merged; 'b' became 'c'" in verdict.found
    late = check_reload(["x" * 300 + "b"], ["x" * 300 + "c"], 0)  # long answers are shown where they part
    assert "xb' became" in late.found and "xc'" in late.found


def test_a_speed_is_tokens_over_seconds_of_five_steps_or_more():
    verdict = check_speed([0.5] * 6, [1000] * 6, 0.456)
    assert verdict.passed and verdict.found == "2,000 tokens/s over 6 steps timed, 1,000 tokens each, MFU 45.6%"
    assert not check_speed([0.5] * 4, [1000] * 4, None).passed
    assert not check_speed([0.0] * 6, [1000] * 6, None).passed


@pytest.mark.parametrize(("share", "passed"), [(0.74, False), (0.76, True), (1.24, True), (1.26, False)])
def test_memory_must_be_within_a_quarter_of_what_was_foreseen(share, passed):
    estimate = StepMemory(weights=4 * GIB, gradients=GIB, optimizer=2 * GIB, activations=GIB)
    verdict = check_memory(int(share * 8 * GIB), estimate)
    assert verdict.passed == passed and f"{share:.2f} of the estimate" in verdict.found
    assert "of 8 GiB (weights 4 GiB + gradients 1 GiB + optimizer 2 GiB + activations 1 GiB)" in verdict.expected
