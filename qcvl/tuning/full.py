"""Full training: the towers' own weights move, in float32."""

from collections.abc import Collection, Sequence

from torch import nn

from qcvl.errors import ConfigError
from qcvl.models.towers import Tower, is_router, tower_of
from qcvl.tuning.freezing import is_under


def train_towers(model: nn.Module, towers: Sequence[Tower], held: Collection[str] = ()) -> nn.Module:
    """Freeze every parameter of ``model``, then make those of ``towers`` trainable float32; returns ``model``.

    Parameters of ``held`` modules stay frozen, and routers: trained without a loss that keeps them balanced, they soon
    use few of the experts.

    Raises:
        ConfigError: when one of ``towers`` has no floating-point parameter to train.
    """
    model.requires_grad_(False)
    found = set()
    for name, parameter in model.named_parameters():
        tower = tower_of(name)
        moves = parameter.is_floating_point() and not is_router(name) and not is_under(name, held)
        if tower in towers and moves:
            make_trainable(parameter)
            found.add(tower)
    if missing := [tower for tower in towers if tower not in found]:
        raise ConfigError(
            f"tuner=full: tower {', '.join(missing)} of {type(model).__name__} has no weights that can be trained; "
            "expected floating-point parameters (a quantized base trains with tuner=lora); change stage.towers or tuner"
        )
    return model


def make_trainable(parameter: nn.Parameter) -> None:
    """Let ``parameter`` train, in float32: bf16 keeps 8 bits, so steps of 1e-6 of a weight would round to nothing."""
    parameter.data = parameter.data.float()
    parameter.requires_grad_(True)
