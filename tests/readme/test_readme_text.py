"""What README.md says, held against the checkout: lengths, paths, tables, the record, the layers."""

import configparser
import json
import re
import subprocess

import pytest
import yaml
from PIL import Image

from qcvl.schema.records import Record


def setup_cfg(readme):
    parser = configparser.ConfigParser()
    parser.read(readme.checkout / "setup.cfg")
    return parser


def quoted(cell):
    """The code spans of a table cell."""
    return re.findall(r"`([^`]+)`", cell)


def test_readme_has_at_most_250_lines(readme):
    assert len(readme.text.splitlines()) <= 250


def test_every_figure_was_measured(readme):
    assert "TBD-MEASURE" not in readme.text


@pytest.mark.parametrize("word", [r"/work/", r"/root/", r"/home/", r"/tmp/", r"https?://", r"pypi", r"index-url"])
def test_readme_names_no_machine_and_no_host(readme, word):
    assert re.search(word, readme.text, re.IGNORECASE) is None


def test_every_link_and_every_path_of_the_checkout_exists(readme):
    entries = {path.name for path in readme.checkout.iterdir()} - {"outputs"}
    targets = re.findall(r"\]\(([^)]+)\)", readme.text)
    spans = re.findall(r"`([^`\s]+)`", readme.text)
    paths = targets + [span for span in spans if span.split("/")[0] in entries and span.split("/")[0] != "qcvl"]
    assert len(paths) >= 4
    assert [path for path in paths if not (readme.checkout / path).exists()] == []


def test_the_picture_is_a_small_png(readme):
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", readme.text)
    path = readme.checkout / picture
    assert path.stat().st_size <= 400_000
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width <= 1400


def test_the_commands_are_those_that_are_installed(readme):
    scripts = setup_cfg(readme)["options.entry_points"]["console_scripts"].strip().splitlines()
    installed = {line.split("=")[0].strip().removeprefix("qcvl-") for line in scripts}
    assert {name for row in readme.table("command") for name in quoted(row[0])} == installed
    examples = {command.split()[2] for block in readme.blocks("bash") for command in block.commands}
    assert examples == {f"qcvl.{name}" for name in installed}


def test_the_groups_are_those_of_conf_with_all_their_choices(readme):
    said = {group: set(quoted(row[1])) for row in readme.table("group") for group in quoted(row[0])}
    folders = [path for path in (readme.checkout / "conf").iterdir() if path.is_dir()]
    assert said == {folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in folders}


def test_the_stages_are_those_of_conf(readme):
    said = {}
    for name, towers, epochs, adapter, full in readme.table("stage"):
        said[quoted(name)[0]] = (towers.split(", "), float(epochs), float(adapter), float(full))
    found = {}
    for path in (readme.checkout / "conf/stage").glob("*.yaml"):
        stage = yaml.safe_load(path.read_text(encoding="utf-8"))
        rates = stage["rates"]
        found[path.stem] = (stage["towers"], stage["epochs"], float(rates["adapter"]), float(rates["full"]))
    assert said == found


def test_the_record_obeys_the_contract_and_shows_every_geometry(readme):
    (block,) = readme.blocks("json")
    record = Record.from_json(json.dumps(json.loads(block.body)), "train.jsonl", 1)
    assert [note.shape.kind for note in record.annotations] == ["bbox_2d", "quad", "poly", "line"]
    assert json.loads(record.to_json()) == json.loads(block.body)


def test_the_layers_are_those_that_import_linter_checks(readme):
    contract = setup_cfg(readme)["importlinter:contract:layers"]["layers"]
    checked = [set(re.findall(r"\w+", line)) for line in contract.strip().splitlines()]
    picture = readme.text.split("## Architecture")[1]
    drawn = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"^    \w+(?: points)? +(.*)$", picture, re.M))))
    there = {path.stem for path in (readme.checkout / "qcvl").iterdir() if not path.name.startswith("__")}
    assert there <= drawn
    assert there <= set.union(*checked)


@pytest.mark.parametrize("target", ["demo", "test", "install", "lint", "slow", "bench"])
def test_the_targets_of_make_are_there(readme, target):
    dry = ["make", "--dry-run", "--always-make", target]  # as on a machine where nothing is installed yet
    done = subprocess.run(dry, cwd=readme.checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = {"demo": "-m qcvl.train", "test": '-m pytest -m "not slow"', "bench": "benchmarks/"}
    assert wanted.get(target, ".venv") in done.stdout


def test_readme_names_only_targets_of_make(readme):
    makefile = (readme.checkout / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.M))
    named = set(re.findall(r"(?:`|^    )make (\w+)", readme.text, re.M))
    assert {"demo", "test"} <= named <= targets
