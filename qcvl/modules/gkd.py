"""Generalized knowledge distillation: cross-entropy on the data's answers, nearness to a teacher on anyone's."""

from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qcvl.checkpoints.adapters import init_from
from qcvl.checkpoints.fingerprint import fingerprint
from qcvl.data.batch import count_labels
from qcvl.errors import CheckpointError
from qcvl.inference.sharding import gather_objects
from qcvl.log import get_logger
from qcvl.losses.jsd import Head, Top, divergence, most_likely
from qcvl.losses.taught import Formula
from qcvl.models.folders import find_folder
from qcvl.models.forward import Seen, hidden_states, look, normalised, unwrap
from qcvl.models.settings import ModelSpec, at_path
from qcvl.modules.base import VLModule
from qcvl.modules.lesson import Lesson, labels_for_one, lesson_sums, shares
from qcvl.modules.rollout import Author, author_of, draw_answers
from qcvl.modules.settings import GKD
from qcvl.modules.sft import answer_loss, before_labels
from qcvl.modules.sharded import whole_blocks
from qcvl.modules.teacher import (
    Teacher,
    common_words,
    frozen_copy,
    require_same_words,
    teacher_of,
    teacher_of_itself,
    weights_mark,
)
from qcvl.modules.teacher_cache import TeacherCache, label_counts, sample_keys
from qcvl.modules.visual_targets import features_distance, require_targets
from qcvl.tuning.freezing import held_modules

log = get_logger(__name__)
CHUNK = 512  # label positions whose logits of both models exist at once: each .3 GiB in fp32 at 151,936 words


class GKDModule(VLModule):
    """Cross-entropy on the data's answers, the divergence from a teacher's words, the distance from its features.

    All are means over an optimizer step. Where answers are drawn, their number of tokens is known once they are: a
    micro-batch (of all ranks together) then is one mean, and those of a step count by their labels in the data.

    Args:
        settings: weights, teacher and whose answers are looked at.
        parts: those of VLModule.
    """

    def __init__(self, *, settings: GKD, **parts: Any) -> None:
        super().__init__(**parts)
        self.gkd = settings
        self.teacher: Teacher | None = None
        self.teacher_mark: str | None = None  # of the weights of a teacher that is the student as it was
        self.cache: TeacherCache | None = None
        self.targets: dict[str, float] = {}
        visual = settings.visual_kd
        if visual["enabled"]:
            chosen = visual["targets"]
            self.targets = {name: chosen[name] if isinstance(chosen, dict) else 1.0 for name in chosen}
        if settings.teacher != "self":
            other = at_path(self.spec, settings.teacher).load_processing(light=True)
            require_same_words(self.processing, other, settings.teacher)
        if settings.beta == 0 and settings.llm_kd_weight:
            log.warning("objective.beta=0 is the whole KL(teacher || student); objective.llm_kd_weight=0 leaves it out")

    def configure_model(self) -> None:
        """Build the tuned model, and its teacher where one is asked anything.

        A teacher at a path whose words are cached is loaded once a word is missing.

        Raises:
            ConfigError: for visual targets that cannot move, or that the teacher has in other shapes.
        """
        super().configure_model()
        waits = self._caches and self.gkd.teacher != "self" and not self.targets
        if self._teaches and not waits:
            require_targets(self.targets, self.built, self._present_teacher().model)

    @property
    def _teaches(self) -> bool:
        return self.gkd.llm_kd_weight > 0 or bool(self.targets)

    @property
    def _caches(self) -> bool:
        return self.gkd.teacher_cache is not None and self.gkd.llm_kd_weight > 0

    def _present_teacher(self) -> Teacher:
        """The teacher, loaded now where it is not yet."""
        if self.teacher is None:
            self._hold_to(self._find_teacher())
        assert self.teacher is not None
        return self.teacher

    def _hold_to(self, teacher: Teacher) -> None:
        self.teacher = teacher
        if self._caches and self.gkd.teacher == "self":  # now, before a strategy shards the weights
            self.teacher_mark = weights_mark(teacher.model)

    def _find_teacher(self) -> Teacher:
        if self.gkd.teacher == "self":
            return teacher_of_itself(self.built, self._teacher_dtype, **self._teacher_options)
        return teacher_of(self._teacher_spec.load_model(), self.built, **self._teacher_options)

    @property
    def _teacher_spec(self) -> ModelSpec:
        spec, dtype = at_path(self.spec, self.gkd.teacher), self.gkd.teacher_dtype
        return spec if dtype is None else replace(spec, dtype=dtype)

    @property
    def _teacher_dtype(self) -> torch.dtype | None:
        name = self.gkd.teacher_dtype
        return None if name is None else getattr(torch, name)

    @property
    def _teacher_options(self) -> dict[str, bool]:
        return {"offload": self.gkd.teacher_offload, "speaks": self.gkd.llm_kd_weight > 0}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the batch: ``sft_sum`` by label kind and ``correct``; where the teacher is asked, the rest.

        ``llm_kd_sum`` counts by the batch's labels (also where drawn answers are longer or shorter), ``vision_kd_sum``
        by its ``cells``.
        """
        pixels = normalised(batch["pixel_values"], self.processing.family)
        row = {**batch, "pixel_values": pixels, "segments": tuple(batch["segments"].tolist())}
        asked = self._teaches and (self.training or self.gkd.eval_kd)
        told, lesson = self._learn(batch, row) if asked else (None, None)
        seen = self._look(row, told)
        states = hidden_states(self.built, row, seen=seen).states
        if lesson is not None and lesson.row is row and self._heads_are_equal:
            sums = self._answers(states, batch, lesson)
        else:
            sums = answer_loss(self.built, states, batch["labels"], batch["label_kinds"])
        if asked and self.gkd.llm_kd_weight and "llm_kd_sum" not in sums:
            if lesson is None and told is not None:  # the student writes, now that it has seen the images
                drawn = self._draw(self.built, row, seen)
                with self._present_teacher().asked(self.device) as teacher:
                    lesson = self._hear(teacher, drawn, told)
            assert lesson is not None
            if lesson.row is not row:
                states = hidden_states(self.built, lesson.row, seen=seen).states
            sums["llm_kd_sum"] = self._divergence(states, lesson) * labels_for_one(row, lesson, self._trainer)
        if self.targets and told is not None:
            distance = self.gkd.visual_kd["distance"]
            sums["cells"] = torch.tensor(len(seen.merged), device=self.device)
            sums["vision_kd_sum"] = features_distance(seen, told, self.targets, distance) * len(seen.merged)
        return sums

    def _author(self) -> Author:
        """Whose answers the divergence is taken on: those of the data in validation."""
        settings = self.gkd
        if not self.training or (settings.lmbda == 0 and not settings.seq_kd):
            return "data"
        return author_of(self.seed, self.step_number, settings.lmbda, seq_kd=settings.seq_kd)

    def _learn(self, batch: dict[str, Tensor], row: dict[str, Any]) -> tuple[Seen | None, Lesson | None]:
        """What the teacher sees, and says; it is not asked where all that is needed of it is in its cache."""
        if not self._caches:
            return self._ask(row, self._author())
        cache, keys = self._opened_cache(), sample_keys(batch, self.processing.family.merge_size)
        # Ranks ask together: those that hold parts of a teacher wait for one another. Validation holds it whole.
        missing = bool(cache.missing(keys))
        if any(gather_objects([missing])) if self.training else missing:
            told, lesson = self._ask(row, "data")
            assert lesson is not None and isinstance(lesson.said, Top)
            cache.add(keys, label_counts(batch), lesson.said)
            return told, lesson
        seen_by_teacher = self._ask(row, None)[0] if self.targets else None
        return seen_by_teacher, Lesson(row, cache.read(keys, self.device))

    def _opened_cache(self) -> TeacherCache:
        if self.cache is None:
            settings, path, of_itself = self.gkd, self.gkd.teacher, self.gkd.teacher == "self"
            assert settings.teacher_cache is not None and settings.top_k is not None
            header = {
                "teacher": self.teacher_mark if of_itself else fingerprint(find_folder(path, weights=True)),
                "dtype": None if of_itself else self._teacher_spec.dtype,
                "context_factor": self.spec.context_factor,
                "vocabulary": self._words,
                "kd_temperature": settings.kd_temperature,
            }
            k = min(settings.top_k, self._words - 1)
            self.cache = TeacherCache(Path(settings.teacher_cache), header, k=k, rank=self.global_rank)
        return self.cache

    def on_fit_start(self) -> None:
        """Refuse another teacher's cache before the first step."""
        if self._caches:
            self._opened_cache()

    def _ask(self, row: dict[str, Any], author: Author | None) -> tuple[Seen, Lesson | None]:
        """What the teacher sees, and what it says of the data's answers or of its own; None of the student's."""
        with self._present_teacher().asked(self.device) as teacher:
            told = look(teacher, row["pixel_values"], row["image_grid_thw"], keep_blocks=True)
            if author in ("student", None) or not self.gkd.llm_kd_weight:
                return told, None
            return told, self._hear(teacher, row if author == "data" else self._draw(teacher, row, told), told)

    def _look(self, row: dict[str, Any], told: Seen | None) -> Seen:
        """What the student sees: through the teacher's blocks where they are its own."""
        shared = told is not None and self.teacher is not None and self.teacher.sees_as_student
        known = told.blocks if shared and told is not None else None
        keep = "vision" in self.targets
        return look(self.built, row["pixel_values"], row["image_grid_thw"], blocks=known, keep_blocks=keep)

    def _draw(self, model: nn.Module, row: dict[str, Any], seen: Seen) -> dict[str, Any]:
        """The row with answers of ``model``'s own; draws follow from the micro-batch's seed."""
        seed = int(np.random.SeedSequence([self.draw_seed]).generate_state(1, np.uint64)[0] >> 1)
        limit, temperature = self.gkd.max_completion_length, self.gkd.temperature
        with ExitStack() as whole:
            if model is self.built:
                whole.enter_context(whole_blocks(self))
                whole.enter_context(self.whole_weights())
            return draw_answers(model, self.processing, row, seen, limit=limit, temperature=temperature, seed=seed)

    def _hear(self, teacher: nn.Module, row: dict[str, Any], told: Seen) -> Lesson:
        states = hidden_states(teacher, row, seen=told).states
        hidden, weight = self._head(teacher, states, row)
        said = Head(hidden, weight.detach())
        k, temperature = self.gkd.top_k, self.gkd.kd_temperature
        return Lesson(row, said if k is None else most_likely(said, k, temperature=temperature, chunk=CHUNK))

    def _answers(self, states: Tensor, batch: dict[str, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        """``sft_sum``, ``correct`` and ``llm_kd_sum`` of the data's own answers, in one pass over the head."""
        formula = Formula(self.gkd.beta, self.gkd.kd_temperature, CHUNK)
        labels = batch.get("step_labels", count_labels(batch["label_kinds"])).to(self.device, torch.float32)
        return lesson_sums(self._head(self.built, states, batch), batch, lesson, formula, shares(self.combine, labels))

    def _divergence(self, states: Tensor, lesson: Lesson) -> Tensor:
        student, settings = self._head(self.built, states, lesson.row), self.gkd
        return divergence(student, lesson.said, beta=settings.beta, temperature=settings.kd_temperature, chunk=CHUNK)

    def _head(self, model: nn.Module, states: Tensor, row: dict[str, Any]) -> Head:
        weight = unwrap(model).get_output_embeddings().weight
        shared = weight if len(weight) == self._words else weight[: self._words]
        return Head(states[0, before_labels(row["label_kinds"])], shared)

    @cached_property
    def _heads_are_equal(self) -> bool:
        """Whether the teacher has a say of all the student's words, those that only pad its head as well."""
        return self._words == common_words(self.built, "self")

    @cached_property
    def _words(self) -> int:
        return common_words(self.built, self.gkd.teacher)

    def combine(self, sums: dict[str, Tensor], labels: Tensor, cells: Tensor) -> Tensor:
        """The weighted sum of the means that there are."""
        loss = self.gkd.sft_alpha * super().combine(sums, labels, cells)
        if "llm_kd_sum" in sums:
            loss = loss + self.gkd.llm_kd_weight * sums["llm_kd_sum"] / labels.sum().clamp(min=1)
        if "vision_kd_sum" in sums:
            loss = loss + self.gkd.visual_kd["weight"] * sums["vision_kd_sum"] / cells.clamp(min=1)
        return loss

    def means(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """``sft_loss``, ``llm_kd_loss`` and ``vision_kd_loss`` as they are in the loss, and ``token_acc``."""
        values = super().means(totals)
        values["sft_loss"] = self.gkd.sft_alpha * values["sft_loss"]
        if "llm_kd_sum" in totals:
            share = totals["llm_kd_sum"] / totals["labels"].sum().clamp(min=1)
            values["llm_kd_loss"] = self.gkd.llm_kd_weight * share
        if "vision_kd_sum" in totals:
            share = totals["vision_kd_sum"] / totals["cells"].clamp(min=1)
            values["vision_kd_loss"] = self.gkd.visual_kd["weight"] * share
        return values

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the teacher was made of."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher_start"] = None if self.init_from is None else str(self.init_from)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that goes on is held to what it was held to: to weights of its start, and not to those it has now.

        Raises:
            CheckpointError: when these are no longer there.
        """
        super().on_load_checkpoint(checkpoint)
        start = checkpoint["teacher_start"]
        if self.teacher is None or self.gkd.teacher != "self" or self.teacher.model is self.built or start is None:
            return
        if not Path(start).is_dir():
            raise CheckpointError(
                f"resume: objective.teacher=self is the model as it was at the start, and {start}, which the run "
                "started from, is no longer there; bring it back"
            )
        model = self.spec.load_model()
        first = init_from(model, self.tuner, self.stage.towers, Path(start), held_modules(model, self.stage))
        self._hold_to(teacher_of(frozen_copy(first, self._teacher_dtype), self.built, **self._teacher_options))
