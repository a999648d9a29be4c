"""A curriculum: numbers of the pipeline that change linearly between two points of a run.

What an epoch's samples get depends on the optimizer step they are planned for, and on nothing else: neither workers nor
prefetching nor a resumed run can move it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field, ValidationError

from qcvl.errors import ConfigError
from qcvl.schema.settings import settings

Percent = Annotated[str, Field(pattern=r"^(100(\.0+)?|\d{1,2}(\.\d+)?)%$")]
Point = Annotated[int, Field(ge=0)] | Percent
Value = float | tuple[float, ...]


@settings
class Phase:
    """From ``start`` to ``end``, each parameter in ``ramps`` goes linearly from its first value to its second.

    Points are optimizer steps (``200``) or shares of the run (``10%``). A parameter is ``<op>.<name>`` or one of the
    pipeline's own (``bypass_prob``); where it is a range, so are the two values. Before its first phase a parameter has
    that phase's first value, after a phase it keeps the second. Equal points make a jump.
    """

    start: Point
    end: Point
    ramps: dict[str, tuple[Value, Value]] = Field(min_length=1)

    def __post_init__(self) -> None:
        if isinstance(self.start, str) != isinstance(self.end, str):
            raise ConfigError(f"a phase goes from {self.start} to {self.end}; give both in steps or both in percent")
        if self.begins > self.ends:
            raise ConfigError(f"a phase goes from {self.start} to {self.end}; its start must not be behind its end")

    @property
    def in_percent(self) -> bool:
        """Whether its points are shares of the run."""
        return isinstance(self.start, str)

    @property
    def begins(self) -> float:
        """The start: a share 0..1 of the run, or a step."""
        return _place(self.start)

    @property
    def ends(self) -> float:
        """The end, likewise."""
        return _place(self.end)

    def value(self, name: str, here: float) -> Value:
        """What a parameter is at ``here``: its first value before the phase, its second from the end on."""
        first, last = self.ramps[name]
        if here >= self.ends:
            return last
        share = max(0.0, (here - self.begins) / (self.ends - self.begins)) if here > self.begins else 0.0
        if isinstance(first, tuple) and isinstance(last, tuple):
            return tuple(a + share * (b - a) for a, b in zip(first, last, strict=True))
        return first + share * (last - first)  # type: ignore[operator]  # both are numbers: see check_phases


class Pipeline(Protocol):
    """What a schedule changes: a frozen dataclass with ops by name."""

    @property
    def ops(self) -> Mapping[str, Any]:
        """Settings objects by name."""
        ...

    @property
    def order(self) -> Sequence[str]:
        """Names of the enabled ops."""
        ...

    @property
    def phases(self) -> Sequence[Phase]:
        """Its curriculum."""
        ...


P = TypeVar("P", bound=Pipeline)


def at_step(pipeline: P, step: int, steps: int | None) -> P:
    """The pipeline of optimizer step ``step`` (from 0) in a run of ``steps``; that pipeline has no phases left.

    Raises:
        ConfigError: for phases in percent of a run whose length nobody knows.
    """
    if not pipeline.phases:
        return pipeline
    here: float = step
    if pipeline.phases[0].in_percent and step:
        if not steps:
            raise ConfigError("augment.phases are in percent of a run without an end; set trainer.max_steps")
        here = step / steps
    return _with(pipeline, _values(pipeline.phases, here))


def check_phases(pipeline: Pipeline) -> list[str]:
    """What is wrong with a pipeline's phases, a line each: names, kinds and limits of values, overlaps, points."""
    phases, known = pipeline.phases, _parameters(pipeline)
    problems = [
        f"{_where(index, name)}: {problem}"
        for index, phase in enumerate(phases)
        for name in phase.ramps
        if (problem := _wrong_name(name, known, pipeline) or _wrong_kind(phase.ramps[name], known[name]))
    ]
    if len({phase.in_percent for phase in phases}) > 1:
        problems.append("augment.phases: some points are steps and others percent; give all in one unit")
    if not problems:
        problems = [*_overlaps(phases), *_refused(pipeline)]
    return problems


def _place(point: int | str) -> float:
    return float(point[:-1]) / 100 if isinstance(point, str) else float(point)


def _values(phases: Sequence[Phase], here: float) -> dict[str, Value]:
    """Every ramped parameter at ``here``."""
    values: dict[str, Value] = {}
    for phase in sorted(phases, key=lambda phase: phase.begins):
        for name in phase.ramps:
            if name not in values or phase.begins <= here:
                values[name] = phase.value(name, here)
    return values


def _with(pipeline: P, values: Mapping[str, Value]) -> P:
    """The pipeline with these parameters and without phases; whole numbers stay whole."""
    known = _parameters(pipeline)
    own: dict[str, Any] = {}
    changed: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        op, _, name = path.rpartition(".")
        (changed.setdefault(op, {}) if op else own)[name] = _rounded(value, known[path])
    ops = {name: replace(op, **changed[name]) if name in changed else op for name, op in pipeline.ops.items()}
    return replace(pipeline, ops=ops, phases=[], **own)  # type: ignore[type-var]  # the pipeline is a dataclass


def _rounded(value: Any, model: Any) -> Any:
    if isinstance(model, tuple | list):
        return tuple(_rounded(part, like) for part, like in zip(value, model, strict=True))
    return round(value) if isinstance(model, int) else value


def _parameters(pipeline: Pipeline) -> dict[str, Any]:
    """Every number and range of numbers that a phase may name, with its present value."""
    owners = {"": pipeline, **{f"{name}.": op for name, op in pipeline.ops.items() if is_dataclass(op)}}
    return {
        prefix + field.name: value
        for prefix, owner in owners.items()
        for field in fields(owner)  # type: ignore[arg-type]
        if _is_numeric(value := getattr(owner, field.name))
    }


def _is_numeric(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) > 0 and all(map(_is_numeric, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _where(index: int, name: str) -> str:
    return f"augment.phases[{index}].ramps.{name}"


def _wrong_name(name: str, known: Mapping[str, Any], pipeline: Pipeline) -> str | None:
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)
        return f"no number of the pipeline has this name; did you mean {near[0]!r}?"
    op = name.rpartition(".")[0]
    if op and op not in pipeline.order:
        return f"{op!r} is not enabled, so nothing would change; add it to augment.order"
    return None


def _wrong_kind(ramp: tuple[Value, Value], present: Any) -> str | None:
    lengths = [len(value) if isinstance(value, tuple | list) else None for value in (*ramp, present)]
    if lengths[0] == lengths[1] == lengths[2]:
        return None
    wanted = f"a range of {lengths[2]} numbers, like {list(present)}" if lengths[2] else f"a number, like {present}"
    return f"goes from {ramp[0]} to {ramp[1]}; each must be {wanted}"


def _overlaps(phases: Sequence[Phase]) -> Iterator[str]:
    for name in dict.fromkeys(name for phase in phases for name in phase.ramps):
        numbered = [(phase, index) for index, phase in enumerate(phases) if name in phase.ramps]
        for (a, i), (b, j) in pairwise(sorted(numbered, key=lambda item: item[0].begins)):
            if b.begins < a.ends or b.begins == a.begins:
                yield f"{_where(j, name)}: overlaps augment.phases[{i}], which ends at {a.end}; start there or later"


def _refused(pipeline: Pipeline) -> Iterator[str]:
    """Values that an op or the pipeline itself refuses; limits are linear, so the ends of ramps are enough."""
    for index, phase in enumerate(pipeline.phases):
        for name, ramp in phase.ramps.items():
            for here, value in zip((phase.begins, phase.ends), ramp, strict=True):
                try:
                    _with(pipeline, _values(pipeline.phases, here) | {name: value})
                except ValidationError as error:
                    yield f"{_where(index, name)}: {value}: {error.errors()[0]['msg']}"
                except ConfigError as error:
                    yield f"{_where(index, name)}: {value}: {error}"
