"""The smallest architecture of each family: two layers a tower, with what sets the family apart in both its forms."""

from tests.models.conftest import ARCHITECTURE

SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}  # not interleaved
TEXT = {key: value for key, value in ARCHITECTURE["text_config"].items() if key not in ("head_dim", "rope_parameters")}
TEXT |= {"hidden_size": 64, "num_attention_heads": 4, "rope_parameters": SECTIONS}  # 4 heads of 16
PATCHES = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [0]}

ARCHITECTURES: dict[str, dict] = {
    "qwen2_vl": {
        "model_type": "qwen2_vl",
        "tie_word_embeddings": True,
        "text_config": TEXT,
        "vision_config": {"depth": 2, "embed_dim": 24, "mlp_ratio": 2, "num_heads": 2, **PATCHES},
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": True,
        "text_config": TEXT,
        "vision_config": {
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_heads": 2,
            "window_size": 56,  # 2x2 cells
            "fullatt_block_indexes": [1],
            **PATCHES,
        },
    },
    "qwen3_vl": ARCHITECTURE,
    "qwen3_vl_moe": ARCHITECTURE | {"model_type": "qwen3_vl_moe", "text_config": ARCHITECTURE["text_config"] | EXPERTS},
}
