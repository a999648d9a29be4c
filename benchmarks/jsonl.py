"""Opening a JSONL file of 1,000,000 records: ``qcvl.data.jsonl.JsonlRecords`` beside ``json.loads`` of every line.

Each opens the file in a process of its own, which tells how long that took, what random records take to read after it,
and the most memory the process held (its imports included). Ours reads and validates the whole file at its first
opening, which is timed apart; the peer validates nothing.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from measure import report

RECORDS, READS, REPEATS = 1_000_000, 2_000, 3
DESCS = ("BBU设备/品牌:华为,显示完整", "光纤/颜色:黄色,有保护措施", "螺丝/安装合格", "label/torn")


def write(path: Path, count: int) -> None:
    """``count`` records of three objects with a summary, as an annotated photo of a cabinet has them."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            x, y = draw.randrange(900), draw.randrange(500)
            boxes = [[x + 40 * n, y, x + 40 * n + 35, y + 300] for n in range(2)]
            objects: list[dict[str, Any]] = [{"bbox_2d": box, "desc": draw.choice(DESCS)} for box in boxes]
            line = {"line": [x, y, x + 50, y + 90, x + 90, y + 20], "line_points": 3, "desc": draw.choice(DESCS)}
            row = {"images": [f"photos/{number:07}.jpg"], "width": 1920, "height": 1080, "objects": [*objects, line]}
            file.write(json.dumps({**row, "summary": "BBU×2,光纤×1"}, ensure_ascii=False) + "\n")


def ours(path: str) -> Sequence[Any]:
    """The records, of which none is read."""
    from qcvl.data.jsonl import JsonlRecords

    return JsonlRecords(path)


def peer(path: str) -> Sequence[Any]:
    """All lines as dicts."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def measure(opener: Callable[[str], Sequence[Any]], path: str) -> None:
    """Print seconds to open, microseconds a random record and MB of memory, as one JSON line."""
    import qcvl.data.jsonl  # noqa: F401  imported in both, so that memory differs by the records alone

    start = time.perf_counter()
    records = opener(path)
    opened = time.perf_counter() - start
    draw = random.Random(1)
    start = time.perf_counter()
    for _ in range(READS):
        assert records[draw.randrange(len(records))]
    read = (time.perf_counter() - start) / READS
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"open": opened, "read": read, "mb": peak_kb / 1024}))


def child(name: str, path: Path) -> dict[str, float]:
    """What ``measure`` says in a process of its own."""
    command = [sys.executable, __file__, name, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main(arguments: Sequence[str] = ()) -> None:
    """Compare opening, reading and memory; ``--quick`` takes 2,000 records and one repeat."""
    count, repeats = (2_000, 1) if "--quick" in arguments else (RECORDS, REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.jsonl"
        write(path, count)
        os.environ["QCVL_CACHE"] = str(Path(folder) / "kept")
        first = child("ours", path)
        turns = [(child("ours", path), child("peer", path)) for _ in range(repeats)]
        size = path.stat().st_size / 2**20
    mine, other = ({key: median(turn[side][key] for turn in turns) for key in first} for side in (0, 1))
    rows = {
        "file": f"{count:,} records, {size:.0f} MB, {repeats} repeats",
        "qcvl, first time": f"{first['open']:.2f} s ({count / first['open']:,.0f} records/s), {first['mb']:.0f} MB",
        "qcvl": f"{mine['open'] * 1e3:.1f} ms, {mine['read'] * 1e6:.0f} us a random record, {mine['mb']:.0f} MB",
        "json.loads of all": f"{other['open'] * 1e3:.1f} ms, {other['mb']:.0f} MB",
    }
    numbers = {"first_s": first["open"], "open_s": mine["open"], "read_us": mine["read"] * 1e6, "mb": mine["mb"]}
    numbers["first_mb"] = first["mb"]
    numbers |= {"peer_open_s": other["open"], "peer_mb": other["mb"]}
    report("jsonl", rows, ratio=other["open"] / mine["open"], peer="json.loads of every line", **numbers)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["peer"]):
        measure({"ours": ours, "peer": peer}[sys.argv[1]], sys.argv[2])
    else:
        main(sys.argv[1:])
