"""Texts that a cut or a mirror made wrong: descs of partly visible objects, and summaries that must stay."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from qcvl.augment.actions import Move
from qcvl.augment.telemetry import CHANGED_DESCS, Telemetry
from qcvl.augment.view import View
from qcvl.schema.descs import replace_tokens
from qcvl.schema.types import Sample

Rename = Callable[[str, float], str]  # from a desc and the share of the object that shows


def renaming(relabel: Mapping[str, str], whole_from: float, telemetry: Telemetry) -> Rename | None:
    """What to call an object that counts as whole from a share on; None where ``relabel`` maps no token."""

    def rename(desc: str, share: float) -> str:
        renamed = desc if share >= whole_from else replace_tokens(desc, relabel)
        telemetry[CHANGED_DESCS] += renamed != desc
        return renamed

    return rename if relabel else None


def relabelled(sample: Sample, rename: Rename) -> Sample:
    """The sample with objects relabelled that an earlier pipeline (a window of ``data.crops``) cut."""
    shares = zip(sample.annotations, sample.coverages, strict=True)
    return replace(sample, annotations=tuple(replace(note, desc=rename(note.desc, share)) for note, share in shares))


def changes_shared_summary(action: Move, view: View) -> bool:
    """Whether a move would rewrite a summary that is also about photos which do not move along."""
    if action.rewrite is None or not (view.shares_summary and view.summary):
        return False
    return action.rewrite(view.summary) != view.summary
