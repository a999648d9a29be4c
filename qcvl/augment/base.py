"""The augmentation pipeline: named ops in an explicit order, one warp between barriers, shapes that follow the pixels.

An op is any settings object with one method, found by its dotted path in YAML (``_target_: my_package.ops.Shear``), so
one from outside the package works like those beside this file::

    @settings
    class QuarterTurn:
        p: Probability

        def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
            if rng.random() >= self.p:
                return Skip(NOT_DRAWN)
            return Move(rotation_matrix(90, view.center))

``draw`` looks at the :class:`~qcvl.augment.view.View`, takes every random number from ``rng`` and answers with one
action of :mod:`qcvl.augment.actions`:

- ``Move(matrix)``: an affine move. Moves gather in one matrix, cut at the next barrier or at the end.
- ``Reframe(window=…, width=…, height=…)``: a barrier; the canvas changes (crop, resize, expand, pad).
- ``Recolor(paint)``: a change of colours; these run last, among themselves in order.
- ``Skip(reason)``: nothing, counted.

The op never touches pixels or shapes itself, so no op can let them drift apart. Pixels wait for one warp at the end,
which also takes a photo that moved to the size the model sees.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from qcvl.augment.actions import Action, Move, Probability, Recolor, Reframe, Skip
from qcvl.augment.canvas import Canvas
from qcvl.augment.schedule import Phase, at_step, check_phases
from qcvl.augment.telemetry import SEEN, Telemetry, count_cut
from qcvl.augment.view import View, frame_window, view_of
from qcvl.errors import ConfigError
from qcvl.geometry.affine import scale_matrix, transform_shape
from qcvl.geometry.order import reading_order
from qcvl.geometry.shapes import Shape
from qcvl.schema.settings import settings
from qcvl.schema.types import Annotation, Sample

Key = tuple[int, int, int]  # seed, epoch, index: all that a draw depends on, besides the op's position and the photo
WHOLE = 1.0 - 1e-6  # the share that counts as nothing lost
PHOTO = -1  # index of the whole photo, tracked in place of objects where a sample lists none
MOVES = "moves"  # what telemetry calls the cut at the end, behind moves that no barrier followed

Seen = Callable[[int, int], tuple[int, int]]  # (width, height) that a model sees of a photo of width x height
Entry = tuple[Annotation, int, float]  # annotation, index in the sample before, share still visible


@runtime_checkable
class Op(Protocol):
    """One augmentation: looks at the view, draws from ``rng`` alone, and says what to do."""

    def draw(self, view: View, rng: np.random.Generator) -> Action:
        """The action for this photo."""
        ...


@settings
class Compose:
    """A pipeline of ``ops``, of which ``order`` names the enabled ones in execution order.

    ``min_coverage`` is the share of an object below which a cut removes it, ``bypass_prob`` the share of samples left
    untouched, ``fill`` the grey level (0..255) where no photo is. With ``share_draw``, photos of one size in a sample
    get the same geometry and colours, and photos of another size the same random stream; without it, each its own.

    Every draw is a pure function of the key, the op's position in ``order`` and the photo's number: an op added at the
    end changes none before it. A summary sample only gets ops that keep every object (the whole photo, where none is
    listed), a chat sample only colours. ``phases`` is a curriculum; see ``at``.
    """

    ops: dict[str, Op]
    order: list[str]
    min_coverage: Probability
    bypass_prob: Probability
    fill: Annotated[int, Field(ge=0, le=255)]
    share_draw: bool
    phases: list[Phase]

    def __post_init__(self) -> None:
        known = ", ".join(sorted(self.ops)) or "none"
        problems = []
        for name in (name for name in self.order if name not in self.ops):
            near = get_close_matches(name, self.ops, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}?" if near else "add its settings under augment.ops"
            problems.append(f"augment.order names {name!r}, which augment.ops does not have (it has {known}); {hint}")
        if problems := problems or check_phases(self):
            raise ConfigError("\n".join(problems))

    def __call__(self, sample: Sample, key: Key, seen: Seen | None = None) -> Sample:
        """The sample with moved, cut, filtered and re-sorted objects; ``key`` is ``(seed, epoch, index)``.

        A photo that moved comes in the size ``seen`` gives where that is smaller, by the one warp that moves it; one
        that did not move keeps its own size, so that it is the model's processor that resizes it.
        """
        telemetry: Telemetry = defaultdict(float)
        order = self.order
        if self.bypass_prob:
            bypassed = np.random.default_rng(np.random.SeedSequence(key)).random() < self.bypass_prob
            telemetry["bypass/applied" if bypassed else "bypass/skipped"] += 1
            order = [] if bypassed else order
        images, entries, touched = list(sample.images), list[Entry](), False
        for group in self._groups(sample):
            stream = 0 if self.share_draw else group[0]
            photos = [sample.images[image] for image in group]
            photos, view = self._run(photos, _view(sample, group), order, (key, stream), telemetry, seen)
            for image, photo in zip(group, photos, strict=True):
                images[image] = photo
            entries.extend(_entries(view, photos[0].shape))
            touched |= view.touched
        telemetry[SEEN] += len(sample.annotations)
        telemetry["objects/dropped"] += len(sample.annotations) - len({index for _, index, _ in entries})
        ordered = _reading(entries) if touched else sorted(entries, key=lambda entry: entry[1])
        return _finished(sample, images, ordered, telemetry)

    def at(self, step: int, steps: int | None) -> "Compose":
        """The pipeline as ``phases`` make it for optimizer step ``step`` (from 0) of a run of ``steps``."""
        return at_step(self, step, steps)

    def _groups(self, sample: Sample) -> list[list[int]]:
        """Image numbers that go through the ops together."""
        if not self.share_draw:
            return [[image] for image in range(len(sample.images))]
        sizes = [sample.size(image) for image in range(len(sample.images))]
        return [[image for image, size in enumerate(sizes) if size == wanted] for wanted in dict.fromkeys(sizes)]

    def _run(
        self,
        photos: list[np.ndarray],
        view: View,
        order: Sequence[str],
        seed: tuple[Key, int],
        telemetry: Telemetry,
        seen: Seen | None,
    ) -> tuple[list[np.ndarray], View]:
        """Photos of one size and their view after all ops of ``order``; ``seed`` is the key and the photo's stream."""
        key, stream = seed
        canvas, recolors = Canvas.of(photos), list[Recolor]()
        for position, name in enumerate(order):
            rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(position, stream)))
            action = self._drawn(name, view, rng)
            match action:
                case Skip(reason):
                    telemetry[f"{name}/skipped"] += 1
                    telemetry[f"{name}/{reason}"] += 1
                    continue
                case Move(matrix):
                    view = view.moved(matrix)
                case Reframe():
                    canvas, view = self._reframe(canvas, view, action, telemetry, name)
                case Recolor():
                    recolors.append(action)
            telemetry[f"{name}/applied"] += 1
        if not view.is_still:
            canvas, view = self._reframe(canvas, view, _same_canvas(view), telemetry, MOVES)
        if seen is not None and view.touched and all(recolor.pointwise for recolor in recolors):
            canvas = canvas.shrunk(seen(view.width, view.height), self.fill)
        photos = canvas.painted(self.fill)
        for recolor in recolors:
            photos = [recolor.paint(photo) for photo in photos]
        return photos, view

    def _drawn(self, name: str, view: View, rng: np.random.Generator) -> Action:
        """What the op wants, or why this sample must not get it."""
        action = self.ops[name].draw(view, rng)
        if not isinstance(action, Action):
            raise ConfigError(
                f"augment.ops.{name}: draw() of {type(self.ops[name]).__name__} returned {action!r}; "
                "expected Move, Reframe, Recolor or Skip of qcvl.augment.actions"
            )
        if isinstance(action, Skip | Recolor) or view.task == "dense":
            return action
        if view.task == "chat":  # its answer may hold coordinates and directions that nobody rewrites
            return Skip("chat_text")
        after = view.moved(action.matrix) if isinstance(action, Move) else view
        barrier = _same_canvas(view) if isinstance(action, Move) else action
        kept = after.reframed(barrier, self._least(barrier, view)).objects
        return action if len(kept) == len(view.objects) else Skip("drops_object")

    def _least(self, barrier: Reframe, view: View) -> float:
        """The share of an object that a cut at ``barrier`` must leave."""
        if any(tracked.index == PHOTO for tracked in view.objects):
            return WHOLE
        return self.min_coverage if barrier.min_coverage is None else barrier.min_coverage

    def _reframe(
        self, canvas: Canvas, view: View, barrier: Reframe, telemetry: Telemetry, name: str
    ) -> tuple[Canvas, View]:
        """Canvas and view after a barrier, which counts as a cut by the op ``name``."""
        after = view.reframed(barrier, self._least(barrier, view))
        count_cut(telemetry, name, view, barrier, after)
        return canvas.reframed(barrier, view.moves, self.fill), after


def _same_canvas(view: View) -> Reframe:
    return Reframe(window=frame_window(view.width, view.height), width=view.width, height=view.height)


def _view(sample: Sample, group: Sequence[int]) -> View:
    """The view of some photos of a sample (all of one size) with their objects, descs and the summary."""
    listed = [(index, note) for index, note in enumerate(sample.annotations) if note.image in group]
    texts = [note.desc for _, note in listed] + ([sample.summary] if sample.summary else [])
    width, height = sample.size(group[0])
    if sample.task == "summary" and not sample.annotations:
        # Nothing says where the summary's objects are, so the whole photo must stay.
        listed = [(PHOTO, Annotation(Shape("bbox_2d", np.array([0, 0, width, height])), "photo"))]
    return view_of(listed, (width, height), sample.task, texts)


def _entries(view: View, shape: Sequence[int]) -> Iterator[Entry]:
    """What is left of the objects, in pixels of the photo ``[H, W, …]`` that shows the view."""
    matrix = scale_matrix(shape[1] / view.width, shape[0] / view.height)
    for tracked in view.objects:
        if tracked.index == PHOTO:
            continue
        if not view.touched:
            yield tracked.annotation, tracked.index, tracked.share
            continue
        for found in tracked.shapes(view.width, view.height):
            yield replace(tracked.annotation, shape=transform_shape(found, matrix)), tracked.index, tracked.share


def _reading(entries: Sequence[Entry]) -> list[Entry]:
    """Photo by photo, each in reading order."""
    ordered: list[Entry] = []
    for image in sorted({annotation.image for annotation, _, _ in entries}):
        here = [entry for entry in entries if entry[0].image == image]
        ordered.extend(here[i] for i in reading_order([annotation.shape for annotation, _, _ in here]))
    return ordered


def _finished(sample: Sample, images: list[np.ndarray], entries: Sequence[Entry], telemetry: Telemetry) -> Sample:
    """The sample with new pixels and objects; indices, shares and counts continue those of an earlier pipeline."""
    before = sample.kept_indices or tuple(range(len(sample.annotations)))
    shares = sample.coverages or (1.0,) * len(sample.annotations)
    counts = {name: sample.telemetry.get(name, 0) + telemetry[name] for name in {**sample.telemetry, **telemetry}}
    return replace(
        sample,
        images=tuple(images),
        annotations=tuple(annotation for annotation, _, _ in entries),
        kept_indices=tuple(before[index] for _, index, _ in entries),
        coverages=tuple(shares[index] * share for _, index, share in entries),
        telemetry=counts,
    )
