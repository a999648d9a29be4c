"""Work shared out to processes: results in order, errors handed on, small work done at home."""

import os
import time

import pytest

from qcvl.doctor.pool import in_order
from qcvl.errors import DataError


def square(shared, number):
    if number == shared:
        raise DataError(f"{number} is refused")
    return number * number, os.getpid()


def slow_first(shared, number):
    time.sleep(0.3 if number == 0 else 0)
    return number


def end(shared, number):
    os._exit(3)


def test_results_come_in_the_order_of_the_items_from_several_processes():
    made = list(in_order(square, -1, range(40), workers=2, patience_s=0))
    assert [(item, result) for item, (result, _) in made] == [(n, n * n) for n in range(40)]
    assert os.getpid() not in {process for _, (_, process) in made}
    assert [item for item, _ in in_order(slow_first, None, range(8), workers=2, patience_s=0)] == list(range(8))


def test_work_that_is_done_soon_needs_no_other_process():
    for workers, patience in ((1, 0.0), (4, 60.0)):
        assert {process for _, (_, process) in in_order(square, -1, range(5), workers, patience)} == {os.getpid()}


def test_items_are_taken_only_as_fast_as_they_are_worked_off():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(square, -1, items(), workers=2, patience_s=0)
    next(results)
    assert len(taken) <= 6
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_work_ends_it(workers):
    with pytest.raises(DataError, match="3 is refused"):
        list(in_order(square, 3, range(9), workers, patience_s=0))


def test_a_process_that_dies_is_told_of():
    with pytest.raises(DataError, match="out of memory"):
        list(in_order(end, None, range(9), workers=2, patience_s=0))
