"""One checkpoint, one set of numbers: at the end of training, by ``qcvl.evaluate``, and from its predictions alone."""

import json
import shutil

import pytest

from qcvl.checkpoints.contract import read_contract
from qcvl.inference.evaluator import read_predictions, score
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.records import read_records
from tests.invariant.conftest import metrics

QUICK = ("generation.max_new_tokens=128",)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluate_gives_the_final_numbers_of_the_run_and_so_does_scoring_its_predictions(
    command, finished_run, photos, tmp_path
):
    last = finished_run / "checkpoints/last"
    settings = ("data=jsonl", f"data.val={photos}/val.jsonl", "data.sampling=mixed", "limit=3", "panels=2")
    done = command("evaluate", f"checkpoint={last}", *settings, *QUICK, "hydra.run.dir=here")
    assert done.code == 0, done.output
    found = metrics(tmp_path / "here")["final"]
    expected = {key: value for key, value in metrics(finished_run)["final"].items() if key.startswith("eval/val/")}
    assert found == pytest.approx(expected, rel=1e-6)  # the run's went through float32 logs
    assert found["eval/val/json_valid"] > 0 and found["eval/val/dense_predictions"] > 0

    answer_format = AnswerFormat(**read_contract(last).answer_format)
    predictions = read_predictions(tmp_path / "here/predictions/val.jsonl", answer_format)
    assert [(p.source, p.index, p.task) for p in predictions] == [
        ("val", index, task) for task in ("dense", "summary") for index in range(3)
    ]
    offline = score({"val": read_records(photos / "val.jsonl")}, predictions)
    assert {f"eval/val/{key}": value for key, value in offline.items()} == found
    pictures = sorted(path.name for path in (tmp_path / "here/previews").glob("*.png"))
    assert pictures == ["sheet-val.png", "val-0000.png", "val-0001.png"]


@pytest.mark.slow
def test_processes_that_share_the_records_write_what_one_does(command, finished_run, photos, tmp_path):
    asked = (f"checkpoint={finished_run}/checkpoints/last", *QUICK)
    data = ("data=jsonl", f"data.val={photos}/val.jsonl", "data.sampling=mixed", "limit=3", "panels=2")
    for root, settings in (("evaluate", data), ("infer", (f"input={photos}/val.jsonl",))):
        for devices in (1, 3):
            done = command(root, *asked, *settings, f"devices={devices}", f"hydra.run.dir={root}-{devices}")
            assert done.code == 0, done.output
            assert done.output.count("All distributed processes registered") == (devices > 1)
        one, three = (tmp_path / f"{root}-{devices}" for devices in (1, 3))
        answers = "predictions.jsonl" if root == "infer" else "predictions/val.jsonl"
        for found, expected in zip(*(lines_of(run / answers) for run in (three, one)), strict=True):
            assert found.pop("scores") == pytest.approx(expected.pop("scores"), abs=1e-5)  # of batches of other photos
            assert found == expected
        files = [sorted(path.relative_to(run) for path in run.rglob("*.*")) for run in (one, three)]
        assert files[0] == files[1]
    found, expected = (metrics(tmp_path / f"evaluate-{devices}")["final"] for devices in (3, 1))
    assert found == pytest.approx(expected, abs=1e-5)
    costs = [json.loads((tmp_path / f"evaluate-{devices}/cost.json").read_text()) for devices in (1, 3)]
    assert costs[0]["answers"] == costs[1]["answers"] == 6


@pytest.mark.slow
def test_a_process_that_cannot_read_its_photo_ends_the_others(command, finished_run, photos, tmp_path):
    originals = sorted((photos / "images").glob("val_*.jpg"))[:2]
    (tmp_path / "album").mkdir()
    shutil.copy(originals[0], tmp_path / "album/a.jpg")
    (tmp_path / "album/b.jpg").write_bytes(originals[1].read_bytes()[:1000])  # the second process's
    checkpoint = f"checkpoint={finished_run}/checkpoints/last"
    done = command("infer", checkpoint, f"input={tmp_path}/album", "devices=2", *QUICK, "hydra.run.dir=here")
    assert done.code != 0 and "album/b.jpg) is damaged" in done.output and "Traceback" not in done.output, done.output
    assert not (tmp_path / "here/predictions.jsonl").exists()


@pytest.mark.slow
def test_evaluate_chooses_a_threshold_and_scores_groups_that_training_saw_apart(
    command, finished_run, photos, tmp_path
):
    train, val = photos / "train.jsonl", photos / "val.jsonl"
    data = ("data=jsonl", f"data.train={train}", f"data.val={{dev: {train}, test: {val}}}", "panels=0", *QUICK)
    chosen = ("threshold=dev", "iou=0.33", "group_by=group", "limit=8", "hydra.run.dir=here")
    done = command("evaluate", f"checkpoint={finished_run}/checkpoints/last", *data, *chosen)
    assert done.code == 0, done.output
    folder = tmp_path / "here"
    found = metrics(folder)
    scopes = {key.rpartition("/")[0] for key in found["final"]}
    assert scopes == {"eval/dev", "eval/dev/seen", "eval/test", "eval/test/unseen"}
    assert found["threshold_source"] == "dev" and 0 <= found["threshold"] <= 1
    low, high = found["intervals"]["eval/test/dense_f1@0.33"]
    assert low <= found["final"]["eval/test/dense_f1@0.33"] <= high
    groups = json.loads((folder / "groups.json").read_text())
    records = read_records(val)[:8]
    assert sum(row["photos"] for row in groups) == len(records) and {row["seen"] for row in groups} == {False}
    classes = json.loads((folder / "classes.json").read_text())
    true = sum(row["truths"] for row in classes["test"]["classes"])
    assert true == sum(len(record.annotations) for record in records)
    for told in ("threshold ", " on dev, whose own P, R and F1", "Groups by group", "Classes (found from IoU 0.33 on)"):
        assert told in done.output, done.output

    missing = command("evaluate", f"checkpoint={finished_run}/checkpoints/last", *data, "group_by=board").error()
    assert missing.startswith(f"{train}:1: metadata.board is missing; expected the name of the record's group")


@pytest.mark.parametrize(
    "kind",
    ["folder", pytest.param("file", marks=pytest.mark.slow), pytest.param("jsonl", marks=pytest.mark.slow)],
)
def test_infer_answers_about_a_photo_a_folder_of_them_and_the_records_of_a_file(
    command, finished_run, photos, tmp_path, kind
):
    originals = sorted((photos / "images").glob("val_*.jpg"))[:2]
    album = tmp_path / "album"
    (album / "more").mkdir(parents=True)
    copies = [shutil.copy(originals[0], album / "a.jpg"), shutil.copy(originals[1], album / "more" / "b.jpg")]
    (album / "notes.txt").write_text("not a photo")
    records = [{"images": ["a.jpg"]}, {"images": ["more/b.jpg"]}]  # not labelled: nobody knows the answer yet
    (album / "asked.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = {"folder": album, "file": album / "a.jpg", "jsonl": album / "asked.jsonl"}[kind]
    asked = copies[:1] if kind == "file" else copies

    checkpoint = finished_run / "checkpoints/last"
    done = command("infer", f"checkpoint={checkpoint}", f"input={source}", *QUICK, "hydra.run.dir=here")
    assert done.code == 0, done.output
    lines = lines_of(tmp_path / "here/predictions.jsonl")
    assert [(album / line["images"][0]).resolve() for line in lines] == [path.resolve() for path in asked]
    assert all(line["sizes"] == [[200, 200]] and line["tokens"] > 0 for line in lines)
    overlays = sorted(path.name for path in (tmp_path / "here/overlays").iterdir())
    assert overlays == [f"{index:05d}_{path.stem}.png" for index, path in enumerate(asked)]


@pytest.mark.slow
def test_infer_names_the_photo_it_cannot_read(command, finished_run, photos, tmp_path):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(next((photos / "images").glob("*.jpg")).read_bytes()[:1000])
    checkpoint = f"checkpoint={finished_run}/checkpoints/last"
    assert f"({damaged}) is damaged" in command("infer", checkpoint, f"input={damaged}").error()
    missing = command("infer", checkpoint, f"input={tmp_path}/nowhere.jpg").error()
    assert missing.startswith(f"{tmp_path}/nowhere.jpg not found; give a photo, a folder of photos or a JSONL file")
    (tmp_path / "empty").mkdir()
    assert "holds no photos" in command("infer", checkpoint, f"input={tmp_path}/empty").error()
