"""``python -m qcvl.convert``: another tool's data set as one JSONL file of records."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pkgutil import iter_modules

from omegaconf import DictConfig

from qcvl import config
from qcvl.composition.recipes import writing as recipes
from qcvl.composition.roots import Convert
from qcvl.composition.targets import locate, refusal
from qcvl.data import formats
from qcvl.errors import ConfigError, DataError
from qcvl.schema.records import Record

Reader = Callable[[Path, str, Path], Iterator[Record]]  # (input, split, the JSONL file's folder) to records


def convert(cfg: DictConfig) -> Path:
    """Write ``output`` and print what it holds; returns its path.

    Another trainer's YAML or command becomes an experiment (``format=ms_swift_config``), a data set one JSONL file.

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
    read = reader(settings)
    records = list(read(Path(settings.input), settings.split, output.parent))
    if not records:
        raise DataError(f"{settings.input}: no records in split={settings.split}; give another folder or split")
    write_records(output, records)
    from rich.console import Console

    objects = sum(len(record.annotations) for record in records)
    for line in (
        f"{len(records):,} records with {objects:,} objects: {output}",
        f"next python -m qcvl.check data.{settings.split}={output.resolve()} decode=true",
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
    known = sorted(module.name for module in iter_modules(formats.__path__))
    name = settings.format
    if "." not in name and name not in known:
        raise ConfigError(f"format: {name} is unknown; expected {', '.join(known)} or the dotted path of a reader")
    target = name if "." in name else f"{formats.__name__}.{name}.to_records"
    if why := refusal(target, settings.trusted_targets):
        raise ConfigError(f"format: {why}")
    return locate(target, settings.trusted_targets)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a JSONL file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    draft.rename(path)


def main() -> None:
    """Console script ``qcvl-convert``."""
    config.run("convert", convert)


if __name__ == "__main__":
    main()
