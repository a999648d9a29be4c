"""How fast a device can be at best, for telling how much of that a run uses."""

import re

# Dense bfloat16 tensor TFLOP/s with float32 accumulation, by torch.cuda.get_device_name(), from NVIDIA's data sheets
# (A100, H100, H200, L4, L40S; where one gives the figure "with sparsity", half of it) and architecture papers (Ampere
# GA102, Ada, Blackwell: GeForce and workstation boards).
_PEAKS = {
    r"A100\b|A800\b": 312.0,
    r"H100 PCIe": 756.0,
    r"H100 NVL": 835.0,
    r"H100\b|H800 (?!PCIe)|H200 (?!NVL)|H200$|GH200\b": 989.4,
    r"B200\b": 2250.0,
    r"A40$": 149.7,
    r"A30$": 165.0,
    r"A10$": 125.0,
    r"L4$": 121.0,
    r"L40$": 181.05,
    r"L40S$": 362.05,
    r"RTX A6000$": 154.8,
    r"RTX 6000 Ada": 364.2,
    r"RTX 3090$": 71.0,
    r"RTX 4090$": 165.2,
    r"RTX 5090$": 209.5,
}


def peak_tflops(device_name: str) -> float | None:
    """Dense bfloat16 TFLOP/s of a whole GPU; None for a part of one (MIG) and for those the table does not know.

    Example:
        >>> peak_tflops("NVIDIA A100-SXM4-80GB"), peak_tflops("NVIDIA GeForce GTX 1080")
        (312.0, None)
    """
    if " MIG " in device_name:
        return None
    return next((peak for pattern, peak in _PEAKS.items() if re.search(rf"\b(?:{pattern})", device_name)), None)
