"""The doctor's schema, geometry and text checks of JSONL records with ten objects, on one core, photo headers aside.

The peer is what is written in an afternoon: ``json.loads``, a loop over the objects, shapely for shapes, and every two
objects of a photo compared; it stops at an object's first fault. The ratio is that of schema and geometry; all the
doctor does with a block (texts, summaries, counts as well) is timed beside it.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import shapely
from measure import median_seconds, report
from PIL import Image

from qcvl.data.sources import JsonlSource
from qcvl.doctor.reading import read_blocks
from qcvl.doctor.scan import Look, look_at_block
from qcvl.doctor.shapes import Shapes, look_at_shapes
from qcvl.schema.lines import read_line

WIDTH, HEIGHT, OBJECTS = 1920, 1080, 10
DESCS = ("BBU设备/品牌:华为,显示完整", "标签/可以识别", "光纤/颜色:黄色", "螺丝,松动")


def line(rng: np.random.Generator) -> str:
    """One record: boxes, quads, polygons and lines, a summary that counts them."""
    objects, counts = [], dict.fromkeys(DESCS, 0)
    for number in range(OBJECTS):
        x, y = (int(value) for value in rng.integers(1, (WIDTH - 200, HEIGHT - 100)))
        w, h = (int(value) for value in rng.integers(20, (200, 100)))
        desc = DESCS[int(rng.integers(len(DESCS)))]
        ring = [x, y, x + w, y + 3, x + w - 2, y + h, x + 1, y + h - 4]
        shape = [
            {"bbox_2d": [x, y, x + w, y + h]},
            {"bbox_2d": [x, y, x + w, y + h]},
            {"quad": ring},
            {"line_points": 4, "line": ring},
            {"poly_points": 5, "poly": [*ring, x - 0.5, y + h / 2]},
        ][number % 5]
        counts[desc] += 1
        objects.append({**shape, "desc": desc})
    summary = "，".join(f"{desc.split('/')[0].split(',')[0]}×{count}" for desc, count in counts.items() if count)
    record = {"images": ["photo.png"], "width": WIDTH, "height": HEIGHT, "summary": summary, "objects": objects}
    return json.dumps(record, ensure_ascii=False)


def plain_check(lines: Sequence[bytes]) -> list[str]:
    """Faults of schema and geometry, found record by record and object by object."""
    faults = []
    for number, text in enumerate(lines, 1):
        record = json.loads(text)
        width, height = record["width"], record["height"]
        shapes = []
        for index, item in enumerate(record["objects"]):
            kinds = [kind for kind in ("bbox_2d", "quad", "poly", "line") if kind in item]
            if len(kinds) != 1 or not isinstance(item.get("desc"), str) or not item["desc"].strip():
                faults.append(f"{number}: {index}")
                continue
            points = np.array(item[kinds[0]], dtype=float).reshape(-1, 2)
            if kinds[0] == "bbox_2d":
                (x1, y1), (x2, y2) = points
                shape = shapely.box(x1, y1, x2, y2)
                wrong = not (x1 < x2 and y1 < y2)
            else:
                shape = shapely.LineString(points) if kinds[0] == "line" else shapely.Polygon(points)
                wrong = not shape.is_valid or len(points) != item.get(f"{kinds[0]}_points", len(points))
                if kinds[0] == "quad" and not wrong:
                    wrong = abs(shape.convex_hull.area - shape.area) > 1e-6
            x1, y1, x2, y2 = shape.bounds
            cells = np.floor(1000 * np.array([[x1, y1], [x2, y2]]) / (width, height) + 0.5)
            if wrong or x1 < 0 or y1 < 0 or x2 > width or y2 > height or (cells[0] == cells[1]).any():
                faults.append(f"{number}: {index}")
            shapes.append((kinds[0], item["desc"], shape))
        for (kind, desc, a), (other, name, b) in combinations(shapes, 2):
            alike = kind == other != "line" and desc == name and a.intersects(b)
            if alike and a.intersection(b).area > 0.95 * a.union(b).area:
                faults.append(f"{number}: twice")
    return faults


def main(arguments: Sequence[str] = ()) -> None:
    """Compare records a second; ``--quick`` takes few records and one repeat."""
    quick = "--quick" in arguments
    count, repeats = (64, 1) if quick else (4096, 5)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        path.write_text("".join(line(rng) + "\n" for _ in range(count)), encoding="utf-8")
        Image.new("L", (WIDTH, HEIGHT)).save(path.with_name("photo.png"))  # one photo: its header is read once
        source = JsonlSource(path=str(path), repeat=1, task=None, prompts=None)
        settings = {"decode": False, "lengths": None, "fix": False, "group_by": None, "across": False, "draw": False}
        look = Look(name="train/train", source=source, sampling="dense", **settings)

        def ours() -> list[str]:
            faults = []
            for block in read_blocks(source, 512):
                read = [read_line(text) for text in block.items]
                lines = [said for said, problems in read if said is not None and not problems]
                shapes = Shapes.of([said.objects for said in lines], [said.sizes for said in lines])
                faults += [code for _, _, code, _ in look_at_shapes(shapes) if code != "order"]
                faults += [problem.code for _, problems in read for problem in problems]
            return faults

        def everything() -> list[str]:
            looked = [look_at_block(block, look) for block in read_blocks(source, 512)]
            return [finding.code for block in looked for finding in block.findings if finding.severity != "note"]

        def peer() -> list[str]:
            with path.open("rb") as lines:
                return plain_check(list(lines))

        assert not ours() and not everything() and not peer(), "the records are sound"
        ours_s, all_s, peer_s = median_seconds([ours, everything, peer], repeats)
    rows = {
        "records": f"{count:,} of {OBJECTS} objects, {repeats} repeats",
        "qcvl": f"{count / ours_s:,.0f} records/s",
        "qcvl, all checks": f"{count / all_s:,.0f} records/s: texts, summaries and counts as well",
        "json and shapely": f"{count / peer_s:,.0f} records/s",
    }
    numbers = {
        "records_per_s": count / ours_s,
        "all_records_per_s": count / all_s,
        "peer_records_per_s": count / peer_s,
    }
    report("doctor", rows, ratio=peer_s / ours_s, peer="json.loads and shapely, object by object", **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
