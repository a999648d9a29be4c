"""``python -m qcvl.convert``: a data set of one format in another, by default as one JSONL file of records."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from qcvl import config
from qcvl.composition.recipes import writing as recipes
from qcvl.composition.roots import Convert
from qcvl.composition.targets import locate, refusal
from qcvl.data.conversation import conversations_of
from qcvl.data.reading import Notice, Reader, find_reader, find_writer, summarize, told_apart
from qcvl.errors import ConfigError, DataError
from qcvl.schema.records import Record

T = TypeVar("T")


def convert(cfg: DictConfig) -> Path:
    """Write ``output`` and print what it holds and what was left out; returns its path.

    Another trainer's YAML or command (``format=ms_swift_config``) becomes an experiment.

    Raises:
        ConfigError: for an unknown format, or an ``output`` that exists or is no place for an experiment.
        DataError: when ``input`` cannot be read or holds no record.
    """
    settings = config.build(cfg)
    output = Path(settings.output)
    if output.exists():
        raise ConfigError(f"output: {output} exists and is left as it is; name another file or remove it")
    if settings.format in recipes.NAMES:
        return convert_settings(Path(settings.input), output)
    read, (write, chats) = reader(settings), find_writer(settings.to)
    root = Path(settings.root) if settings.root else None
    records, notices = told_apart(read(Path(settings.input), settings.split, root))
    if not records:
        found = "".join(f"; {line}" for line in summarize(notices))
        raise DataError(f"{settings.input}: no records in split={settings.split}{found}; give another folder or split")
    objects = sum(len(record.annotations) for record in records)
    if chats:
        records, left_out = told_apart(conversations_of(records, settings.prompts, settings.answer))
        notices += left_out
    if settings.packing_length is None:
        notices += write_whole(write, records, output)
    else:
        from qcvl.data.formats.qwen_conversations import write_packs
        from qcvl.data.packed import in_packs

        packs, alone = in_packs(records, settings.model.load_processing(light=True), settings.packing_length)
        notices += alone + write_whole(write_packs, packs, output)
    from rich.console import Console

    for line in (
        f"{len(records):,} records with {objects:,} objects: {output}",
        *(f"note {line}" for line in summarize(notices)),
        f"next python -m qcvl.check {_overrides(settings, records, output)} decode=true",
    ):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return output


def convert_settings(source: Path, output: Path) -> Path:
    """Write another trainer's settings as an experiment and print what of them is left over; returns ``output``."""
    recipe = recipes.convert_recipe(source, output)
    from rich.console import Console

    for line in (
        f"{len(recipe.groups)} groups chosen, {len(recipe.settings)} settings, {len(recipe.left)} left over: {output}",
        *(f"left over: {line}" for line in recipes.left_lines(recipe)),
        f"next python -m qcvl.train --config-dir {output.parent.parent.resolve()} experiment={output.stem} "
        "data.train=F.jsonl data.val=F.jsonl",
    ):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return output


def reader(settings: Convert) -> Reader:
    """The function behind ``format``: ``to_records`` of a module of ``qcvl.data.formats``, or any dotted path.

    Raises:
        ConfigError: for a name no module has (the names are listed), or a path that may not be imported.
    """
    if "." not in settings.format:
        return find_reader(settings.format)
    if why := refusal(settings.format, settings.trusted_targets):
        raise ConfigError(f"format: {why}")
    return locate(settings.format, settings.trusted_targets)


def write_whole(write: Callable[[T, Path], list[Notice]], records: T, output: Path) -> list[Notice]:
    """Let ``write`` make a file or folder, which appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}.draft")
    if draft.is_dir():  # of a conversion that was interrupted
        shutil.rmtree(draft)
    notices = write(records, draft)
    draft.rename(output)
    return notices


def _overrides(settings: Convert, records: Sequence[Record], output: Path) -> str:
    """What has to be said so that the next command reads ``output``."""
    given = [f"data.{settings.split}={output.resolve()}"]
    if settings.to != "jsonl":
        given.append(f"data.format={settings.to}")
        images = (str(image) for record in records for image in record.images)
        folders = {os.path.dirname(image) for image in images if os.path.isabs(image)}
        base = (output if output.is_dir() else output.parent).resolve()
        if folders and not all(Path(folder).is_relative_to(base) for folder in folders):
            given.append(f"data.root={os.path.commonpath(folders)}")
    return " ".join(given)


def main() -> None:
    """Console script ``qcvl-convert``."""
    config.run("convert", convert)


if __name__ == "__main__":
    main()
