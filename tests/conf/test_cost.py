"""What a command cost, its own work and that of the processes it started."""

import json
import subprocess
import sys
import time

import pytest

from qcvl.composition.cost import Meter, processor_seconds, write_cost

WORK = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def test_work_counts_whether_done_here_or_by_a_process_that_has_ended():
    meter = Meter()
    exec(WORK)
    here = meter.spent()[0]
    subprocess.run([sys.executable, "-c", WORK], check=True)
    both = meter.spent()[0]
    assert here == pytest.approx(0.5, abs=0.1) and 0.5 <= both - here < 1.5  # an interpreter starts in a part of that


def test_waiting_costs_time_by_the_clock_alone():
    meter = Meter()
    time.sleep(0.3)
    processor, clock = meter.spent()
    assert clock >= 0.3 and processor < 0.1
    assert processor_seconds() > 0


def test_the_file_keeps_seven_digits(tmp_path):
    write_cost(tmp_path, {"core_minutes": 12.34567891, "parameters": 1395168.0})
    assert json.loads((tmp_path / "cost.json").read_text()) == {"core_minutes": 12.34568, "parameters": 1395168.0}
