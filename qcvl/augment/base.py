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

- ``Move(matrix)``: an affine move. Moves gather in one matrix, applied by one warp at the next barrier or at the end.
  ``Move(matrix, rewrite=…)`` also changes what the texts say.
- ``Reframe(window=…, width=…, height=…)``: a barrier; the canvas changes (crop, resize, expand, pad).
- ``Paste(index=…, …)``: one object a second time, at another place.
- ``Recolor(paint)``: a change of colours; these run last, among themselves in order.
- ``Skip(reason)``: nothing, counted.

The op never touches pixels or shapes itself, so no op can let them drift apart.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from qcvl.augment.actions import Action, Move, Paste, Probability, Recolor, Reframe, Skip
from qcvl.augment.paste import paste
from qcvl.augment.view import View, frame_window, view_of
from qcvl.augment.warp import warp
from qcvl.augment.words import TokenMapping, replace_tokens
from qcvl.errors import ConfigError
from qcvl.geometry.order import reading_order
from qcvl.geometry.shapes import Shape
from qcvl.schema.settings import settings
from qcvl.schema.types import Annotation, Sample

Key = tuple[int, int, int]  # seed, epoch, index: all that a draw depends on, besides the op's position and the photo
WHOLE = 1.0 - 1e-6  # the share that counts as nothing lost
PHOTO = -1  # index of the whole photo, tracked in place of objects where a sample lists none

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

    ``min_coverage`` is the share of an object below which a cut removes it. What a cut leaves with less than
    ``completeness_threshold`` is only partly visible: ``relabel`` maps whole tokens of its desc (``显示完整``, between
    ``/ , : = ;``, spaces or the ends) to what is true now; without entries, descs stay as they are.

    ``bypass_prob`` is the share of samples left untouched; ``augment_prob``, its complement, may be given in its place
    (else None). ``fill`` is the grey level (0..255) where no photo is. With ``share_draw``, photos of one size in a
    sample get the same geometry and colours, and photos of another size the same random stream; without it, each its
    own.

    Every draw is a pure function of the key, the op's position in ``order`` and the photo's number: an op added at the
    end changes none before it. A summary sample only gets ops that keep every object (the whole photo, where none is
    listed) and add none, a chat sample only colours.
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
        if problems:
            raise ConfigError("\n".join(problems))

    def __call__(self, sample: Sample, key: Key) -> Sample:
        """The sample with moved, cut, filtered and re-sorted objects; ``key`` is ``(seed, epoch, index)``."""
        telemetry: Counter[str] = Counter()
        sample = self._relabelled(sample, telemetry)
        order = self.order
        bypass_prob = self.bypass_prob if self.augment_prob is None else 1 - self.augment_prob
        if np.random.default_rng(np.random.SeedSequence(key)).random() < bypass_prob:
            telemetry["bypass/applied"] += 1
            order = []
        images, entries, touched = list(sample.images), list[Entry](), False
        for group in self._groups(sample):
            stream = 0 if self.share_draw else group[0]
            photos = [sample.images[image] for image in group]
            photos, view = self._run(photos, _view(sample, group), order, (key, stream), telemetry)
            for image, photo in zip(group, photos, strict=True):
                images[image] = photo
            entries.extend(_entries(view))
            touched |= view.touched
            sample = replace(sample, summary=view.summary)
        telemetry["objects/dropped"] += len(sample.annotations) - len({index for _, index, _ in entries})
        ordered = _reading(entries) if touched else sorted(entries, key=lambda entry: entry[1])
        return _finished(sample, images, ordered, telemetry)

    def _groups(self, sample: Sample) -> list[list[int]]:
        """Image numbers that go through the ops together."""
        if not self.share_draw:
            return [[image] for image in range(len(sample.images))]
        sizes = [sample.size(image) for image in range(len(sample.images))]
        return [[image for image, size in enumerate(sizes) if size == wanted] for wanted in dict.fromkeys(sizes)]

    def _run(
        self, photos: list[np.ndarray], view: View, order: Sequence[str], seed: tuple[Key, int], telemetry: Counter[str]
    ) -> tuple[list[np.ndarray], View]:
        """Photos of one size and their view after all ops of ``order``; ``seed`` is the key and the photo's stream."""
        key, stream = seed
        recolors: list[Recolor] = []
        for position, name in enumerate(order):
            rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(position, stream)))
            action = self._drawn(name, view, rng)
            match action:
                case Skip(reason):
                    telemetry.update((f"{name}/skipped", f"{name}/{reason}"))
                    continue
                case Move(matrix, rewrite):
                    view = view.moved(matrix)
                    if rewrite is not None:
                        before, view = view.texts, view.rewritten(rewrite)
                        telemetry[f"{name}/changed_texts"] += sum(map(str.__ne__, before, view.texts))
                case Reframe():
                    photos, view = self._reframe(photos, view, action, telemetry)
                case Paste():
                    photos, view = self._settled(photos, view, telemetry)
                    view = view.pasted(action)
                    photos = [
                        paste(photo, action) if image == view.objects[-1].annotation.image else photo
                        for image, photo in zip(view.images, photos, strict=True)
                    ]
                case Recolor():
                    recolors.append(action)
            telemetry[f"{name}/applied"] += 1
        photos, view = self._settled(photos, view, telemetry)
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
        if isinstance(action, Move) and _changes_shared_summary(action, view):
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

    def _settled(self, photos: list[np.ndarray], view: View, telemetry: Counter[str]) -> tuple[list[np.ndarray], View]:
        """Pixels and view with no move waiting."""
        return (photos, view) if view.is_still else self._reframe(photos, view, _same_canvas(view), telemetry)

    def _reframe(
        self, photos: list[np.ndarray], view: View, barrier: Reframe, telemetry: Counter[str]
    ) -> tuple[list[np.ndarray], View]:
        """Pixels and view after a barrier: one warp for all that waits."""
        matrix, visible = barrier.matrix @ view.moves, barrier.visible(view.width, view.height)
        size = (barrier.width, barrier.height)
        warped = [warp(photo, matrix, size, visible, self.fill) for photo in photos]
        own = barrier.completeness_threshold
        rename = self._renaming(self.completeness_threshold if own is None else own, telemetry)
        return warped, view.reframed(barrier, self._least(barrier, view), rename)

    def _renaming(self, whole_from: float, telemetry: Counter[str]) -> Callable[[str, float], str] | None:
        """What to call an object of a desc and a visible share; None where nothing is relabelled."""

        def rename(desc: str, share: float) -> str:
            renamed = desc if share >= whole_from else replace_tokens(desc, self.relabel)
            telemetry["relabel/changed_descs"] += renamed != desc
            return renamed

        return rename if self.relabel else None

    def _relabelled(self, sample: Sample, telemetry: Counter[str]) -> Sample:
        """The sample with objects relabelled that an earlier pipeline (a window of ``data.crops``) cut."""
        rename = self._renaming(self.completeness_threshold, telemetry)
        if rename is None or not sample.coverages:
            return sample
        shares = zip(sample.annotations, sample.coverages, strict=True)
        notes = tuple(replace(note, desc=rename(note.desc, share)) for note, share in shares)
        return replace(sample, annotations=notes)


def _same_canvas(view: View) -> Reframe:
    return Reframe(window=frame_window(view.width, view.height), width=view.width, height=view.height)


def _changes_shared_summary(action: Move, view: View) -> bool:
    """Whether a move would rewrite a summary that is also about photos which do not move along."""
    if action.rewrite is None or not (view.shares_summary and view.summary):
        return False
    return action.rewrite(view.summary) != view.summary


def _view(sample: Sample, group: Sequence[int]) -> View:
    """The view of some photos of a sample (all of one size) with their objects, descs and the summary."""
    listed = [(index, note) for index, note in enumerate(sample.annotations) if note.image in group]
    width, height = sample.size(group[0])
    if sample.task == "summary" and not sample.annotations:
        # Nothing says where the summary's objects are, so the whole photo must stay.
        listed = [(PHOTO, Annotation(Shape("bbox_2d", np.array([0, 0, width, height])), ""))]
    shares_summary = len(group) < len(sample.images)
    view = view_of(listed, (width, height), sample.task, sample.summary)
    return replace(view, images=tuple(group), shares_summary=shares_summary)


def _entries(view: View) -> Iterator[Entry]:
    for tracked in view.objects:
        if tracked.index == PHOTO:
            continue
        if not view.touched:
            yield tracked.annotation, tracked.index, tracked.share
            continue
        for shape in tracked.shapes(view.width, view.height):
            yield replace(tracked.annotation, shape=shape), tracked.index, tracked.share


def _reading(entries: Sequence[Entry]) -> list[Entry]:
    """Photo by photo, each in reading order."""
    ordered: list[Entry] = []
    for image in sorted({annotation.image for annotation, _, _ in entries}):
        here = [entry for entry in entries if entry[0].image == image]
        ordered.extend(here[i] for i in reading_order([annotation.shape for annotation, _, _ in here]))
    return ordered


def _finished(sample: Sample, images: list[np.ndarray], entries: Sequence[Entry], telemetry: Counter[str]) -> Sample:
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
