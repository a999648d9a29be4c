"""A context longer than the trained one, by YaRN: https://arxiv.org/abs/2309.00071."""

from transformers import PreTrainedConfig

from qcvl.errors import ConfigError


def extend_context(config: PreTrainedConfig, factor: float) -> None:
    """Let the language model read ``factor`` times the tokens it was trained on; 1 leaves ``config`` as it is.

    YaRN leaves the fast rotary frequencies, which tell neighbours apart, and slows the slowest by ``factor``. What is
    saved has it in its ``config.json``, so that plain transformers reads it alike; a checkpoint that has the same
    factor already is left as it is.

    Raises:
        ConfigError: for a checkpoint whose positions are scaled in another way already.
    """
    text = config.text_config
    rope = text.rope_parameters
    found = rope.get("rope_type", "default"), rope.get("factor")
    if factor == 1 or found == ("yarn", factor):
        return
    if found[0] != "default":
        raise ConfigError(
            f"model.context_factor={factor:g}: the checkpoint's positions are scaled already (rope_type {found[0]}, "
            f"factor {found[1]}); use model.context_factor={found[1] if found[0] == 'yarn' else 1}"
        )
    trained = text.max_position_embeddings
    text.rope_parameters = rope | {
        "rope_type": "yarn",
        "factor": float(factor),
        "original_max_position_embeddings": trained,
    }
    text.max_position_embeddings = int(trained * factor)
