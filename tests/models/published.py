"""The published sizes: what decides the number of weights. The eye of Qwen2.5-VL 72B is taken to be that of 32B."""

SMALL_EYE = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
LARGE_EYE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
EYES = {
    "qwen3_vl": {"num_heads": 16, "patch_size": 16, "num_position_embeddings": 2304},
    "qwen2_5_vl": {"depth": 32, "hidden_size": 1280, "num_heads": 16, "window_size": 112, "patch_size": 14},
    "qwen2_vl": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14},
}
EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8}


def _config(model_type: str, eye: dict, *, tied: bool, **text: object) -> dict:
    vision = EYES[model_type.removesuffix("_moe")] | eye
    vision["hidden_size" if model_type == "qwen2_vl" else "out_hidden_size"] = text["hidden_size"]
    if model_type.startswith("qwen3"):
        text |= {"head_dim": 128, "vocab_size": 151936}
    return {
        "model_type": model_type,
        "tie_word_embeddings": tied,
        "text_config": {**text, "tie_word_embeddings": tied},
        "vision_config": vision,
    }


def _text(width: int, inner: int, layers: int, heads: int, key_value_heads: int, **more: object) -> dict:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return dict(zip(names, (width, inner, layers, heads, key_value_heads), strict=True)) | more


LARGE, TIED = {"vocab_size": 152064}, {"vocab_size": 151936}
CONFIGS = {
    "qwen3_vl_2b": _config("qwen3_vl", SMALL_EYE, tied=True, **_text(2048, 6144, 28, 16, 8)),
    "qwen3_vl_4b": _config("qwen3_vl", SMALL_EYE, tied=True, **_text(2560, 9728, 36, 32, 8)),
    "qwen3_vl_8b": _config("qwen3_vl", LARGE_EYE, tied=False, **_text(4096, 12288, 36, 32, 8)),
    "qwen3_vl_32b": _config("qwen3_vl", LARGE_EYE, tied=False, **_text(5120, 25600, 64, 64, 8)),
    "qwen3_vl_30b_a3b": _config(
        "qwen3_vl_moe", LARGE_EYE, tied=False, **_text(2048, 6144, 48, 32, 4), **EXPERTS, moe_intermediate_size=768
    ),
    "qwen3_vl_235b_a22b": _config(
        "qwen3_vl_moe", LARGE_EYE, tied=False, **_text(4096, 12288, 94, 64, 4), **EXPERTS, moe_intermediate_size=1536
    ),
    "qwen2_5_vl_3b": _config(
        "qwen2_5_vl", {"intermediate_size": 3420}, tied=True, **_text(2048, 11008, 36, 16, 2, **TIED)
    ),
    "qwen2_5_vl_7b": _config(
        "qwen2_5_vl", {"intermediate_size": 3420}, tied=False, **_text(3584, 18944, 28, 28, 4, **LARGE)
    ),
    "qwen2_5_vl_32b": _config(
        "qwen2_5_vl", {"intermediate_size": 3456}, tied=False, **_text(5120, 27648, 64, 40, 8, **LARGE)
    ),
    "qwen2_5_vl_72b": _config(
        "qwen2_5_vl", {"intermediate_size": 3456}, tied=False, **_text(8192, 29568, 80, 64, 8, **LARGE)
    ),
    "qwen2_vl_2b": _config("qwen2_vl", {}, tied=True, **_text(1536, 8960, 28, 12, 2, **TIED)),
    "qwen2_vl_7b": _config("qwen2_vl", {}, tied=False, **_text(3584, 18944, 28, 28, 4, **LARGE)),
}

# Parameters of vision, aligner and llm, counted on the meta device; the sums round to the totals below.
PARAMETERS = {
    "qwen3_vl_2b": (306_242_560, 100_714_496, 1_720_574_976),
    "qwen3_vl_4b": (306_242_560, 109_105_152, 4_022_468_096),
    "qwen3_vl_8b": (415_891_440, 160_496_896, 8_190_735_360),
    "qwen3_vl_32b": (415_891_440, 179_375_360, 32_762_123_264),
    "qwen3_vl_30b_a3b": (415_891_440, 122_739_968, 30_532_122_624),
    "qwen3_vl_235b_a22b": (415_891_440, 160_496_896, 235_093_634_560),
    "qwen2_5_vl_3b": (631_975_680, 36_708_608, 3_085_938_688),
    "qwen2_5_vl_7b": (631_975_680, 44_574_464, 7_615_616_512),
    "qwen2_5_vl_32b": (636_401_664, 52_440_320, 32_763_876_352),
    "qwen2_5_vl_72b": (636_401_664, 68_172_032, 72_706_203_648),
    "qwen2_vl_2b": (631_183_360, 34_087_936, 1_543_714_304),
    "qwen2_vl_7b": (631_183_360, 44_575_744, 7_615_616_512),
}
# Totals as they are told of the published weights, in billions.
TOLD = {
    "qwen3_vl_2b": "2.13",
    "qwen3_vl_4b": "4.44",
    "qwen3_vl_8b": "8.77",
    "qwen3_vl_32b": "33.4",
    "qwen3_vl_30b_a3b": "31.1",
    "qwen3_vl_235b_a22b": "236",
    "qwen2_5_vl_3b": "3.75",
    "qwen2_5_vl_7b": "8.29",
    "qwen2_5_vl_32b": "33.5",
    "qwen2_5_vl_72b": "73.4",
    "qwen2_vl_2b": "2.21",
    "qwen2_vl_7b": "8.29",
}
