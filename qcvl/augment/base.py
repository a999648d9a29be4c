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
  ``Move(matrix, rewrite=…)`` also changes what the texts say.
- ``Reframe(window=…, width=…, height=…)``: a barrier; the canvas changes (crop, resize, expand, pad).
- ``Paste(index=…, …)``: one object a second time, at another place.
- ``Recolor(paint)``: a change of colours; these run last, among themselves in order.
- ``Skip(reason)``: nothing, counted.

The op never touches pixels or shapes itself, so no op can let them drift apart. Pixels wait for one warp at the end
(or at a paste), which also takes a photo that moved to the size the model sees.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from qcvl.augment.actions import Action, Move, Paste, Probability, Recolor, Reframe, Skip
from qcvl.augment.canvas import Canvas
from qcvl.augment.outcome import PHOTO, Entry, entries_of, finished, in_reading_order
from qcvl.augment.paste import paste
from qcvl.augment.relabel import changes_shared_summary, relabelled, renaming
from qcvl.augment.schedule import Phase, at_step, check_phases
from qcvl.augment.telemetry import SEEN, Telemetry, count_cut
from qcvl.augment.view import View, frame_window, view_of
from qcvl.augment.words import TokenMapping
from qcvl.errors import ConfigError
from qcvl.geometry.shapes import Shape
from qcvl.schema.settings import settings
from qcvl.schema.types import Annotation, Sample

Key = tuple[int, int, int]  # seed, epoch, index: all that a draw depends on, besides the op's position and the photo
WHOLE = 1.0 - 1e-6  # the share that counts as nothing lost
MOVES = "moves"  # what telemetry calls the cut at the end, behind moves that no barrier followed

Seen = Callable[[int, int], tuple[int, int]]  # (width, height) that a model sees of a photo of width x height


@runtime_checkable
class Op(Protocol):
    """One augmentation: looks at the view, draws from ``rng`` alone, and says what to do."""

    def draw(self, view: View, rng: np.random.Generator) -> Action:
        """The action for this photo."""
        ...


@settings
class Compose:
    """A pipeline of ``ops``, of which ``order`` names the enabled ones in execution order.

    ``min_coverage`` is the share of an object below which a cut removes it. What a cut leaves with less than
    ``completeness_threshold`` is only partly visible: ``relabel`` maps whole tokens of its desc (``显示完整``, between
    ``/ , : = ;``, spaces or the ends) to what is true now; without entries, descs stay as they are.

    ``bypass_prob`` is the share of samples left untouched; ``augment_prob``, its complement, may be given in its place
    (else None). ``fill`` is the grey level (0..255) where no photo is. With ``share_draw``, photos of one size in a
    sample get the same geometry and colours, and photos of another size the same random stream; without it, each its
    own.

    Every draw is a pure function of the key, the op's position in ``order`` and the photo's number: an op added at the
    end changes none before it. A summary sample only gets ops that keep every object (the whole photo, where none is
    listed) and add none, a chat sample only colours. ``phases`` is a curriculum; see ``at``.
    """

    ops: dict[str, Op]
    order: list[str]
    min_coverage: Probability
    completeness_threshold: Probability
    relabel: TokenMapping
    bypass_prob: Probability
    augment_prob: Probability | None
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
        if self.augment_prob is not None and self.bypass_prob > 0:
            problems.append(
                f"augment.augment_prob {self.augment_prob} and augment.bypass_prob {self.bypass_prob} say the same "
                "thing twice (one is 1 minus the other); give one of them"
            )
        if problems := problems or check_phases(self):
            raise ConfigError("\n".join(problems))

    def __call__(self, sample: Sample, key: Key, seen: Seen | None = None) -> Sample:
        """The sample with moved, cut, filtered and re-sorted objects; ``key`` is ``(seed, epoch, index)``.

        A photo that moved comes in the size ``seen`` gives where that is smaller, by the one warp that moves it; one
        that did not move keeps its own size, so that it is the model's processor that resizes it.
        """
        telemetry: Telemetry = defaultdict(float)
        if (rename := renaming(self.relabel, self.completeness_threshold, telemetry)) and sample.coverages:
            sample = relabelled(sample, rename)
        order = [] if self._is_bypassed(key, telemetry) else self.order
        images, entries, touched = list(sample.images), list[Entry](), False
        for group in self._groups(sample):
            stream = 0 if self.share_draw else group[0]
            photos = [sample.images[image] for image in group]
            photos, view = self._run(photos, _view(sample, group), order, (key, stream), telemetry, seen)
            for image, photo in zip(group, photos, strict=True):
                images[image] = photo
            entries.extend(entries_of(view, photos[0].shape))
            touched |= view.touched
            sample = replace(sample, summary=view.summary)
        telemetry[SEEN] += len(sample.annotations)
        telemetry["objects/dropped"] += len(sample.annotations) - len({index for _, index, _ in entries})
        ordered = in_reading_order(entries) if touched else sorted(entries, key=lambda entry: entry[1])
        return finished(sample, images, ordered, telemetry)

    def at(self, step: int, steps: int | None) -> "Compose":
        """The pipeline as ``phases`` make it for optimizer step ``step`` (from 0) of a run of ``steps``."""
        return at_step(self, step, steps)

    def _is_bypassed(self, key: Key, telemetry: Telemetry) -> bool:
        """Whether the sample stays untouched; counted where some samples do."""
        share = self.bypass_prob if self.augment_prob is None else 1 - self.augment_prob
        if not share:
            return False
        bypassed = bool(np.random.default_rng(np.random.SeedSequence(key)).random() < share)
        telemetry["bypass/applied" if bypassed else "bypass/skipped"] += 1
        return bypassed

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
                case Move(matrix, rewrite):
                    view = view.moved(matrix)
                    if rewrite is not None:
                        before, view = view.texts, view.rewritten(rewrite)
                        telemetry[f"{name}/changed_texts"] += sum(map(str.__ne__, before, view.texts))
                case Reframe():
                    canvas, view = self._reframe(canvas, view, action, telemetry, name)
                case Paste():
                    canvas, view = self._paste(*self._settled(canvas, view, telemetry), action)
                case Recolor():
                    recolors.append(action)
            telemetry[f"{name}/applied"] += 1
        canvas, view = self._settled(canvas, view, telemetry)
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
                "expected Move, Reframe, Paste, Recolor or Skip of qcvl.augment.actions"
            )
        if isinstance(action, Skip | Recolor):
            return action
        if view.task == "chat":  # its answer may hold coordinates and directions that nobody rewrites
            return Skip("chat_text")
        if isinstance(action, Move) and changes_shared_summary(action, view):
            return Skip("shared_summary")
        if view.task == "dense":
            return action
        if isinstance(action, Paste):
            return Skip("adds_object")
        after = view.moved(action.matrix) if isinstance(action, Move) else view
        barrier = _same_canvas(view) if isinstance(action, Move) else action
        kept = after.reframed(barrier, self._least(barrier, view)).objects
        return action if len(kept) == len(view.objects) else Skip("drops_object")

    def _least(self, barrier: Reframe, view: View) -> float:
        """The share of an object that a cut at ``barrier`` must leave."""
        if any(tracked.index == PHOTO for tracked in view.objects):
            return WHOLE
        return self.min_coverage if barrier.min_coverage is None else barrier.min_coverage

    def _settled(self, canvas: Canvas, view: View, telemetry: Telemetry) -> tuple[Canvas, View]:
        """Canvas and view with no move waiting."""
        return (canvas, view) if view.is_still else self._reframe(canvas, view, _same_canvas(view), telemetry, MOVES)

    def _reframe(
        self, canvas: Canvas, view: View, barrier: Reframe, telemetry: Telemetry, name: str
    ) -> tuple[Canvas, View]:
        """Canvas and view after a barrier, which counts as a cut by the op ``name``."""
        own = barrier.completeness_threshold
        rename = renaming(self.relabel, self.completeness_threshold if own is None else own, telemetry)
        after = view.reframed(barrier, self._least(barrier, view), rename)
        count_cut(telemetry, name, view, barrier, after)
        return canvas.reframed(barrier, view.moves, self.fill), after

    def _paste(self, canvas: Canvas, view: View, action: Paste) -> tuple[Canvas, View]:
        """Canvas and still view with the copy; it takes pixels, so they are made here."""
        view = view.pasted(action)
        image = view.objects[-1].annotation.image
        photos = zip(view.images, canvas.painted(self.fill), strict=True)
        return Canvas.of([paste(photo, action) if number == image else photo for number, photo in photos]), view


def _same_canvas(view: View) -> Reframe:
    return Reframe(window=frame_window(view.width, view.height), width=view.width, height=view.height)


def _view(sample: Sample, group: Sequence[int]) -> View:
    """The view of some photos of a sample (all of one size) with their objects, descs and the summary."""
    listed = [(index, note) for index, note in enumerate(sample.annotations) if note.image in group]
    width, height = sample.size(group[0])
    if sample.task == "summary" and not sample.annotations:
        # Nothing says where the summary's objects are, so the whole photo must stay.
        listed = [(PHOTO, Annotation(Shape("bbox_2d", np.array([0, 0, width, height])), ""))]
    shares_summary = len(group) < len(sample.images)
    size, keep = (width, height), sample.keep_vertex_order
    view = view_of(listed, size, sample.task, sample.summary, keep_vertex_order=keep)
    return replace(view, images=tuple(group), shares_summary=shares_summary)
