"""Visual features of a student that are held near a teacher's."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qcvl.errors import ConfigError
from qcvl.losses.features import Distance, feature_distance
from qcvl.models.forward import Seen, unwrap
from qcvl.models.towers import tower_of
from qcvl.tuning.adapters import base_name


def features_distance(student: Seen, teacher: Seen, targets: Mapping[str, float], distance: Distance) -> Tensor:
    """The sum of each target's weight times its mean distance, a float32 scalar; 0 without an image.

    ``targets`` are those of ``settings.VisualKD``. The features of several deepstack mergers count as one target.
    """
    if not len(student.merged):
        return student.merged.float().sum()
    total = torch.zeros((), device=student.merged.device)
    for target, weight in targets.items():
        pairs = list(zip(_features(student, target), _features(teacher, target), strict=True))
        total = total + weight * sum(feature_distance(one, other, distance) for one, other in pairs) / len(pairs)
    return total


def _features(seen: Seen, target: str) -> tuple[Tensor, ...]:
    if target == "vision":
        return (seen.blocks[max(seen.blocks)],)
    return (seen.merged,) if target == "merger" else seen.deepstack


def require_targets(targets: Mapping[str, float], student: nn.Module, teacher: nn.Module) -> None:
    """Refuse targets that cannot move, which would be a constant, or that the teacher has in other shapes.

    Raises:
        ConfigError: naming all of them.
    """
    ours, theirs = _shapes(student), _shapes(teacher)
    problems = []
    for target in targets:
        if not ours[target][0]:
            problems.append(f"{target}: {unwrap(student).config.model_type} has none")
        elif not _moves(student, target):
            problems.append(f"{target}: nothing of it is trained, so its distance would stay as it is")
        elif ours[target] != theirs[target]:
            problems.append(f"{target}: the teacher has {_told(theirs[target])}, the student {_told(ours[target])}")
    if problems:
        raise ConfigError(
            f"objective.visual_kd.targets: {'; '.join(problems)}; leave these out, train their towers by another "
            "stage, or set objective.visual_kd.enabled=false"
        )


def _told(shape: tuple[int, int]) -> str:
    return f"{shape[0]} of width {shape[1]}"


def _shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """How many features of what width each target is of."""
    config, visual = unwrap(model).config, unwrap(model).model.visual
    merged = config.text_config.hidden_size
    blocks = config.vision_config.embed_dim if hasattr(config.vision_config, "embed_dim") else None
    width = blocks or config.vision_config.hidden_size
    return {
        "merger": (1, merged),
        "deepstack": (len(getattr(visual, "deepstack_merger_list", ())), merged),
        "vision": (1, width),
    }


def _moves(model: nn.Module, target: str) -> bool:
    """Whether training moves a target: its own projection, or the blocks under it."""
    part = {"merger": ".visual.merger.", "deepstack": ".visual.deepstack_merger_list."}.get(target)
    names = (base_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return any(tower_of(name) == "vision" or (part is not None and part in f".{name}") for name in names)
