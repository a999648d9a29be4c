"""README.md cut into its code blocks, and a folder in which its commands can be typed."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from qcvl.schema.records import Record

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(?:<!-- test: (?P<extra>.*?) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block; ``extra`` is what the comment before it appends to each command when it is tested."""

    language: str
    body: str
    extra: str

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, continued lines joined."""
        return [line for line in self.body.replace("\\\n", " ").splitlines() if line.strip()]


def blocks() -> list[Block]:
    """Every fenced block of README.md, in order."""
    return [Block(match["language"], match["body"], match["extra"] or "") for match in BLOCK.finditer(README)]


def pytest_generate_tests(metafunc):
    """``block``: the bash and python blocks in their order; ``command``: every command of the bash blocks."""
    runnable = [block for block in blocks() if block.language in ("bash", "python")]
    if "block" in metafunc.fixturenames:
        names = [f"{number}-{block.body.split(maxsplit=3)[2]}" for number, block in enumerate(runnable, start=1)]
        metafunc.parametrize("block", runnable, ids=names)
    if "command" in metafunc.fixturenames:
        typed = [shlex.split(command) for block in runnable if block.language == "bash" for command in block.commands]
        metafunc.parametrize("command", typed, ids=[f"{i}-{words[2]}" for i, words in enumerate(typed, start=1)])


@pytest.fixture(scope="session")
def readme():
    """README.md, its blocks by ``readme.blocks(language)`` and its tables by ``readme.table(first_header)``."""
    return Readme()


class Readme:
    """README.md as text, blocks and tables."""

    text = README
    checkout = CHECKOUT

    def blocks(self, language: str) -> list[Block]:
        """The blocks of one language."""
        return [block for block in blocks() if block.language == language]

    def table(self, first_header: str) -> list[list[str]]:
        """The cells of the table whose first column has this header, row by row, without the header."""
        lines = README.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_header} |"))
        rows = []
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        return rows


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like a checkout with what README.md says a user has: two JSONL files, their photos, a DeepPCB copy."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("qcvl", "conf"):
        (folder / name).symlink_to(CHECKOUT / name)
    raw = json.loads(next(block.body for block in blocks() if block.language == "json"))
    passed = raw | {"images": ["photos/rack_02.jpg"], "metadata": {"group": "site-18", "label": "pass"}}
    lines = [json.dumps(record) + "\n" for record in (raw, passed)]
    for name in ("train.jsonl", "val.jsonl"):
        (folder / name).write_text("".join(lines), encoding="utf-8")
    for line in lines:
        record = Record.from_json(line)
        write_photo(folder / record.images[0], *record.sizes[0])
    write_deeppcb(folder / "deeppcb" / "PCBData")
    return Workplace(folder)


class Workplace:
    """Runs a line of bash in the folder, with the tests' interpreter as ``python``."""

    def __init__(self, folder: Path):
        self.folder, self.printed = folder, ""

    def type(self, line: str) -> subprocess.CompletedProcess:
        """The finished process; what it printed is kept in ``printed`` too."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        self.printed += done.stdout
        return done


def write_photo(path: Path, width: int, height: int) -> None:
    """A photo of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), noise)


def write_deeppcb(folder: Path) -> None:
    """A data set in DeepPCB's layout: pairs of noise with one defect, four in the first list and one in the second."""
    for listing, numbers in (("trainval.txt", range(1, 5)), ("test.txt", range(5, 6))):
        lines = []
        for number in numbers:
            name = f"0004100{number}"
            for kind in ("test", "temp"):
                write_photo(folder / f"group00041/00041/{name}_{kind}.jpg", 160, 160)
            labels = folder / f"group00041/00041_not/{name}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("20 30 60 80 3\n")
            lines.append(f"group00041/00041/{name}.jpg group00041/00041_not/{name}.txt\n")
        (folder / listing).write_text("".join(lines))
