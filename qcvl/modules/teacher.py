"""The frozen model that a student is held to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import AutoConfig

from qcvl.checkpoints.fingerprint import fingerprint
from qcvl.errors import ConfigError
from qcvl.inference.hf import evaluating
from qcvl.models.folders import find_folder
from qcvl.models.forward import unwrap
from qcvl.models.spec import Processing
from qcvl.models.towers import tower_of
from qcvl.tuning.adapters import base_name


class Teacher:
    """A model that is asked and never trained; no part of the module, so that nothing of it is saved or moved.

    Args:
        model: plain or wrapped by peft, whose adapters are off while it is asked; may be the student itself.
        student: the model whose weights it may share.
        offload: weights of its own wait in the host's memory while it is not asked.
    """

    def __init__(self, model: nn.Module, student: nn.Module, *, offload: bool) -> None:
        self.model, self.offload = model, offload
        self.adapters = adapter_layers(model)
        shared = {id(tensor) for tensor in (*student.parameters(), *student.buffers())}
        self.own = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in shared]
        self.sees_as_student = _same_eye(model, student)

    @contextmanager
    def asked(self, device: torch.device) -> Iterator[nn.Module]:
        """The model on ``device`` as it answers: without gradients, dropout and adapters."""
        self._move(device)
        with torch.no_grad(), evaluating(self.model), adapters_off(self.adapters):
            yield self.model
        if self.offload:
            self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        with torch.inference_mode(False):  # first asked in a validation, it could teach nothing afterwards
            for tensor in self.own:
                tensor.data = tensor.data.to(device)


def teacher_of_itself(student: nn.Module, dtype: torch.dtype | None, *, offload: bool, speaks: bool) -> Teacher:
    """The student as it is now: itself without adapters where these are all that moves, else with copies of the rest.

    What stays frozen is shared. ``dtype`` None keeps number formats; ``speaks`` False leaves the language model out.
    """
    if isinstance(student, PeftModel) and not _moves_base(student):
        return Teacher(student, student, offload=False)
    copy = frozen_copy(student, dtype)
    return Teacher(copy if speaks else _without_language(copy), student, offload=offload)


def teacher_of(model: nn.Module, student: nn.Module, *, offload: bool, speaks: bool) -> Teacher:
    """Another model, frozen; ``speaks`` False leaves the language model out."""
    model.requires_grad_(False)
    return Teacher(model if speaks else _without_language(model), student, offload=offload)


def weights_mark(model: nn.Module) -> str:
    """The fingerprint of a model's weights without its adapters, the same however these are called in it."""
    added = (model.base_model.prefix, ".modules_to_save.") if isinstance(model, PeftModel) else ()
    weights = model.named_parameters()
    return fingerprint({base_name(name): value for name, value in weights if not any(part in name for part in added)})


def require_same_words(student: Processing, teacher: Processing, path: str) -> None:
    """Refuse a teacher whose tokens or patches are others than the student's.

    Raises:
        ConfigError: naming the first difference.
    """
    own, other = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    if differ := sorted(token for token in own.keys() | other.keys() if own.get(token) != other.get(token)):
        token = differ[0]
        raise ConfigError(
            f"objective.teacher={path}: {len(differ)} tokens are others than the student's, first {token!r} (id "
            f"{other.get(token)} of the teacher, {own.get(token)} of the student); a teacher needs the student's "
            "vocabulary: use a model of the same family"
        )
    for name in ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "times_in_text"):
        ours, theirs = (getattr(processing.family, name) for processing in (student, teacher))
        if ours != theirs:
            raise ConfigError(
                f"objective.teacher={path}: {name} is {theirs}, the student's is {ours}, and both see the same "
                "patches; use a teacher of the same family"
            )


def common_words(student: nn.Module, teacher: str) -> int:
    """Rows that the heads of both have: families pad those of one vocabulary to different numbers.

    The student's number is read from its configuration: of a head that ZeRO-3 deals no row is here.
    """
    own: int = unwrap(student).config.get_text_config().vocab_size
    if teacher == "self":
        return own
    config = AutoConfig.from_pretrained(find_folder(teacher, weights=False), local_files_only=True)
    return min(own, config.get_text_config().vocab_size)


def frozen_copy(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy in which what is frozen in ``model``, and has ``dtype`` already, is the very same tensor."""
    parameters = list(model.parameters())
    copy = deepcopy(model, memo={id(parameter): parameter for parameter in parameters})
    made = {id(parameter): _frozen(parameter, dtype) for parameter in parameters}
    for module in copy.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            module._parameters[name] = made[id(parameter)]
    return copy


def _frozen(parameter: nn.Parameter, dtype: torch.dtype | None) -> nn.Parameter:
    wanted = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
    if not parameter.requires_grad and parameter.dtype == wanted:
        return parameter
    return nn.Parameter(parameter.detach().to(wanted, copy=True), requires_grad=False)


def adapter_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, plain or wrapped by peft, that adapters change or that it trains copies of."""
    return [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]


@contextmanager
def adapters_off(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Switch adapters off, and on again with the same parameters trained: peft would train all of them.

    As ``PeftModel.disable_adapter`` does, which first surveys the whole model, each step anew: with a thousand modules
    that takes ten times as long.
    """
    trained = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, moves in trained:
            parameter.requires_grad_(moves)


def _moves_base(model: PeftModel) -> bool:
    """Whether a parameter is trained that stays in place when adapters are off, as biases do."""
    prefixes = (model.base_model.prefix, ".modules_to_save.")
    moving = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return any(not any(prefix in name for prefix in prefixes) for name in moving)


def _same_eye(teacher: nn.Module, student: nn.Module) -> bool:
    """Whether both have the same vision blocks, which neither training nor adapters change."""
    adapted = any(
        isinstance(module, BaseTunerLayer) and tower_of(base_name(name)) == "vision"
        for name, module in student.named_modules()
    )
    theirs = {id(parameter) for parameter in teacher.parameters()}
    eye = [parameter for name, parameter in student.named_parameters() if tower_of(base_name(name)) == "vision"]
    return not adapted and all(id(parameter) in theirs and not parameter.requires_grad for parameter in eye)


def _without_language(model: nn.Module) -> nn.Module:
    core = unwrap(model)
    core.model.language_model, core.lm_head = nn.Identity(), nn.Identity()
    return model
