"""Weights and gradients that DeepSpeed holds in shares: read whole, measured, and set.

Every function is called on all ranks. They know a parameter of DeepSpeed's by the marks it leaves on it, and leave all
others as they are, so that callers need not ask which strategy a run has.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
MARK = "dealt_by"  # on a trained parameter: DeepSpeed's optimizer


def is_dealt(parameter: Tensor) -> bool:
    """Whether DeepSpeed holds the parameter, its gradient or its moments in shares."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, MARK)


def mark(groups: Sequence[Sequence[nn.Parameter]], optimizer: Any) -> None:
    """Note DeepSpeed's optimizer on the parameters it steps; None: it is gone, and stages 1, 2 left them whole."""
    for parameter in (parameter for group in groups for parameter in group):
        vars(parameter).pop(MARK, None)
        if optimizer is not None:
            setattr(parameter, MARK, optimizer)


def deal(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Deal a model that is whole in the host's memory over all ranks, in the precision of DeepSpeed's configuration.

    One weight at a time is on the device. A model that is dealt stays as it is.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    from deepspeed import zero

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtypes = [dtype for name, dtype in half.items() if config.get(name, {}).get("enabled")]
    dtype = dtypes[0] if dtypes else torch.float32
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    offload = config["zero_optimization"].get("offload_param") or {}
    how = {"remote_device": offload.get("device"), "pin_memory": offload.get("pin_memory", False)}
    zero.Init(module=model, dtype=dtype, config_dict_or_path=dict(config), **how)


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their names; of those in shares the first rank gets all, in float32 and on the CPU.

    Tied ones stay one tensor. Other ranks get tensors without memory, of the right shapes.
    """
    found: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in found:
            found[id(tensor)] = _on_first_rank(_gathered(tensor)) if is_dealt(tensor) else tensor.detach()
    return {name: found[id(tensor)] for name, tensor in tensors.items()}


def _gathered(parameter: Tensor, moment: str | None = None) -> Tensor:
    """A parameter's float32 original, or one of its moments; what a frozen one holds."""
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if moment is not None:
        return safe_get_full_optimizer_state(parameter, moment)
    if hasattr(parameter, MARK):
        return safe_get_full_fp32_param(parameter)
    with zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def _on_first_rank(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu" if dist.get_rank() == 0 else "meta")


def norms_of_shares(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, float]:
    """Norms by the given names (several parameters may share one) of gradients after a step's last backward."""
    shares: dict[str, list[Tensor]] = {}
    for name, parameter in named:
        mine = shares.setdefault(name, [])
        if (gradient := _own_gradient(parameter)) is not None:
            mine.append(gradient)
    squares = [
        torch.stack(torch._foreach_norm(mine)).square().sum() if mine else torch.zeros(()) for mine in shares.values()
    ]
    total = torch.stack([square.to(_device()) for square in squares])
    dist.all_reduce(total)
    return dict(zip(shares, total.sqrt().tolist(), strict=True))


def _own_gradient(parameter: nn.Parameter) -> Tensor | None:
    """This rank's share of a gradient, a mean over ranks as in DDP; None where it has none of it."""
    scale = getattr(parameter, MARK).loss_scale
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_local_grad

        return safe_get_local_grad(parameter) / scale
    if (place := parameter._hp_mapping) is None:
        return None
    return place.get_lp_grad_fragment(parameter._index_in_param_group).float() / scale


def set_whole(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a trained parameter and its float32 original a value."""
    from deepspeed import zero

    value = value.to(_device(), torch.float32)
    if not hasattr(parameter, "ds_id"):
        parameter.data.copy_(value)
        parameter.set_full_hp_param(value)
        return
    with zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.data.copy_(value)
    _set_share(parameter, value, None)


def _set_share(parameter: nn.Parameter, value: Tensor, moment: str | None) -> None:
    """Keep this rank's share of a value that stage 3 deals: equal parts, the last filled up with zeros."""
    size = parameter.ds_tensor.ds_numel
    padded = torch.zeros(size * dist.get_world_size(), device=value.device).index_copy_(
        0, torch.arange(value.numel(), device=value.device), value.flatten()
    )
    getattr(parameter, MARK).set_local_hp_param(padded[dist.get_rank() * size :][:size], parameter, moment)


def optimizer_state(optimizer: Any, groups: Sequence[Sequence[nn.Parameter]]) -> dict[str, Any]:
    """The state of DeepSpeed's optimizer as torch's AdamW alone on one device would have it; empty on other ranks.

    So a run goes on with any number of devices, and with or without DeepSpeed.

    Args:
        optimizer: DeepSpeed's, around AdamW.
        groups: the parameters of its groups, as they were handed over.
    """
    states = [state for state in optimizer.optimizer.state.values() if state]
    parameters = [parameter for group in groups for parameter in group]
    _link_moments(optimizer)
    rows = {}
    for number, parameter in enumerate(parameters if states else []):
        row = {moment: _on_first_rank(_gathered(parameter, moment)) for moment in MOMENTS}
        rows[number] = {"step": states[0]["step"].detach().to("cpu", copy=True), **row}
    numbers, count = iter(range(len(parameters))), map(len, groups)
    named = [
        {**{key: value for key, value in group.items() if key != "params"}, "params": [next(numbers) for _ in range(n)]}
        for group, n in zip(optimizer.param_groups, count, strict=True)
    ]
    return {"state": rows, "param_groups": named, "loss_scale": _scale(optimizer)}


def load_optimizer_state(optimizer: Any, groups: Sequence[Sequence[nn.Parameter]], state: Mapping[str, Any]) -> None:
    """Give a new optimizer of DeepSpeed's the state that ``optimizer_state`` read, on any number of ranks."""
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update({key: value for key, value in saved.items() if key != "params"})
    vars(optimizer.loss_scaler).update(state.get("loss_scale") or {})
    rows = state["state"]
    if not rows:
        return
    _make_moments(optimizer, rows[0]["step"])
    for number, parameter in enumerate(parameter for group in groups for parameter in group):
        for moment in MOMENTS:
            value = rows[number][moment].to(_device(), torch.float32)
            if hasattr(parameter, "ds_id"):
                _set_share(parameter, value, moment)
            else:
                parameter.set_full_hp_param(value, moment)


def _make_moments(optimizer: Any, step: Tensor) -> None:
    """The state that AdamW makes at its first step, for each of the flat tensors that it works on."""
    flat = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_partitioned_groups_flat
    for tensor in flat:
        moments = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
        optimizer.optimizer.state[tensor] = {"step": step.clone().to(tensor.device), **moments}
    _link_moments(optimizer)


def _link_moments(optimizer: Any) -> None:
    """Let stages 1 and 2 find each parameter's moments: DeepSpeed links all groups when only the first has stepped."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _scale(optimizer: Any) -> dict[str, float]:
    """What an adapting loss scale (float16) goes on from."""
    names = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
    return {name: value for name, value in vars(optimizer.loss_scaler).items() if name in names}


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Within the block every rank has the whole model, and may run it alone; a model not dealt is left as it is."""
    dealt = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    dealt = [parameter for parameter in dealt if parameter.ds_status.name != "AVAILABLE"]  # in use, or gathered already
    if not dealt:
        yield
        return
    from deepspeed import zero

    hooks = [(module, module._forward_pre_hooks, module._forward_hooks) for module in model.modules()]
    with zero.GatheredParameters(dealt):
        for module, *_ in hooks:  # DeepSpeed's, which would let go of each layer after its use
            module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
        try:
            yield
        finally:
            for module, before, after in hooks:
                module._forward_pre_hooks, module._forward_hooks = before, after


@contextmanager
def gathering(model: nn.Module) -> Iterator[None]:
    """Within the block stage 3 gathers also what one layer takes of another, as in the forward of a step."""
    taken = [module._parameters for module in model.modules() if hasattr(module._parameters, "_in_forward")]
    before = [parameters._in_forward for parameters in taken]
    for parameters in taken:
        parameters._in_forward = True
    try:
        yield
    finally:
        for parameters, value in zip(taken, before, strict=True):
            parameters._in_forward = value


def _device() -> torch.device:
    """The device of this rank."""
    from deepspeed.accelerator import get_accelerator

    return torch.device(get_accelerator().current_device_name())
