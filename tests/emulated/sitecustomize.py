"""Gives every Python process that has this folder on its path a GPU in software (see device.cpp).

``EMULATED_GPU`` is the library built from device.cpp, ``EMULATED_GPUS`` how many devices a process sees, 1 without it.
When the process ends it writes what the device did to ``EMULATED_GPU_TOLD``, a folder, if that is set.
"""

import atexit
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

# torch asks once whether there is a GPU, while it is imported: the device must be there by then.
ctypes.CDLL(str(Path(find_spec("torch").origin).parent / "lib/libtorch.so"), mode=ctypes.RTLD_GLOBAL)
_DEVICE = ctypes.CDLL(os.environ["EMULATED_GPU"])
_DEVICE.emulated_peak.restype = _DEVICE.emulated_held.restype = ctypes.c_int64

# Their kernels are a real GPU's, and they look for it when they are imported.
sys.modules["bitsandbytes"] = sys.modules["triton"] = None  # type: ignore[assignment]

import torch  # noqa: E402

HALVES = (torch.bfloat16, torch.float16)
DONE = {"kernel_forward": 0, "kernel_backward": 0}
SIZE = 80 * 2**30
NAME = "NVIDIA H100 80GB HBM3"


class Stream:
    """All that is asked of it is done."""

    def __init__(self, *args, **kwargs) -> None:
        self.device = torch.device("cuda", 0)

    def wait_stream(self, stream) -> None: ...

    def wait_event(self, event) -> None: ...

    def synchronize(self) -> None: ...

    def is_capturing(self) -> bool:
        return False

    def record_event(self, event=None) -> "Event":
        return event or Event()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error) -> None: ...


class Event:
    """The time at which it was recorded."""

    def __init__(self, *args, **kwargs) -> None:
        self.at = time.perf_counter()

    def record(self, stream=None) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        return (end.at - self.at) * 1000

    def query(self) -> bool:
        return True

    def wait(self, stream=None) -> None: ...

    def synchronize(self) -> None: ...


def _nothing() -> Callable[..., None]:
    """A function of its own: torch keeps rules for each of these by identity."""
    return lambda *args, **kwargs: None


_STATE = torch.zeros(16, dtype=torch.uint8)
_PROPERTIES = SimpleNamespace(name=NAME, total_memory=SIZE, major=9, minor=0, multi_processor_count=132)
_CUDA = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: int(os.environ.get("EMULATED_GPUS", "1")),
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: NAME,
    "get_device_properties": lambda device=None: _PROPERTIES,
    "get_device_capability": lambda device=None: (9, 0),
    "is_bf16_supported": lambda *args, **kwargs: True,
    "is_current_stream_capturing": lambda: False,
    "memory_allocated": lambda device=None: _DEVICE.emulated_held(),
    "memory_reserved": lambda device=None: _DEVICE.emulated_held(),
    "max_memory_allocated": lambda device=None: _DEVICE.emulated_peak(),
    "max_memory_reserved": lambda device=None: _DEVICE.emulated_peak(),
    "reset_peak_memory_stats": lambda device=None: _DEVICE.emulated_forget_peak(),
    "mem_get_info": lambda device=None: (SIZE - _DEVICE.emulated_held(), SIZE),
    "memory_stats": lambda device=None: {},
    "get_rng_state": lambda device="cuda": _STATE.clone(),
    "get_rng_state_all": lambda: [_STATE.clone()],
    "current_stream": lambda device=None: Stream(),
    "default_stream": lambda device=None: Stream(),
    "stream": lambda stream: Stream(),
    "Stream": Stream,
    "Event": Event,
    "_exchange_device": lambda device: 0,
    "_maybe_exchange_device": lambda device: 0,
}
_SILENT = ("_lazy_init", "set_device", "empty_cache", "synchronize", "manual_seed", "manual_seed_all")
_SILENT = (*_SILENT, "set_rng_state", "set_rng_state_all")
for _name, _value in {**_CUDA, **{name: _nothing() for name in _SILENT}}.items():
    setattr(torch.cuda, _name, _value)
torch.accelerator.current_stream = lambda device=None: Stream()
torch.accelerator.synchronize = _nothing()
torch.Tensor.record_stream = _nothing()
torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop = _nothing(), _nothing()


_RESIZE = torch.UntypedStorage.resize_


def _resize(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
    if storage.device.type != "cuda":
        return _RESIZE(storage, size)
    torch.ops.emulated.resize_storage(torch.empty(0, dtype=torch.uint8, device="cuda").set_(storage), size)
    return storage


torch.UntypedStorage.resize_ = _resize


def _segments(starts: torch.Tensor) -> list[slice]:
    edges = starts.tolist()
    return [slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def _probabilities(query, key, causal: bool, scale: float) -> torch.Tensor:
    scores = query @ key.mT * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1)


def _one(tensor: torch.Tensor, segment: slice, repeats: int = 1) -> torch.Tensor:
    return tensor[segment].cpu().float().transpose(0, 1).repeat_interleave(repeats, dim=0)


def _attention(query, key, value, starts, starts_k, longest, longest_k, dropout, causal, debug, **how):
    """``aten::_flash_attention_forward`` on packed rows ``[L, H, D]``, by its definition; refuses what a GPU would."""
    assert query.dtype == key.dtype == value.dtype and query.dtype in HALVES, (query.dtype, key.dtype, value.dtype)
    assert starts.dtype == starts_k.dtype == torch.int32 and starts.is_cuda and starts_k.is_cuda
    assert int(starts[-1]) == len(query) and longest == int(starts.diff().max()) and query.shape[-1] % 8 == 0
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1 and dropout == 0
    DONE["kernel_forward"] += 1
    causal, scale = _way(query, causal, **how)
    repeats, out = query.shape[1] // key.shape[1], torch.empty(query.shape)
    for part in _segments(starts):
        q, k, v = _one(query, part), _one(key, part, repeats), _one(value, part, repeats)
        out[part] = (_probabilities(q, k, causal, scale) @ v).transpose(0, 1)
    logsumexp = torch.empty(query.shape[1], len(query), device=query.device)
    nothing = torch.empty(0, device=query.device)
    return out.to(query), logsumexp, torch.empty(2, dtype=torch.uint64, device=query.device), nothing, nothing


def _attention_backward(
    grad, query, key, value, out, logsumexp, starts, starts_k, longest, longest_k, dropout, causal, rng, unused, **how
):
    """Gradients of query, key and value."""
    DONE["kernel_backward"] += 1
    causal, scale = _way(query, causal, **how)
    repeats = query.shape[1] // key.shape[1]
    of_query, of_key, of_value = (torch.empty(tensor.shape) for tensor in (query, key, value))
    for part in _segments(starts):
        q, k, v, g = _one(query, part), _one(key, part, repeats), _one(value, part, repeats), _one(grad, part)
        p = _probabilities(q, k, causal, scale)
        dp = g @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
        of_query[part] = (ds @ k).transpose(0, 1)
        for target, whole in ((of_key, ds.mT @ q), (of_value, p.mT @ g)):
            target[part] = whole.unflatten(0, (-1, repeats)).sum(1).transpose(0, 1)
    return of_query.to(query), of_key.to(key), of_value.to(value)


def _way(query, causal: bool, scale=None, window_size_left=None, window_size_right=None, **rest) -> tuple[bool, float]:
    assert window_size_left in (None, -1) and window_size_right in (None, -1, 0) and not any(rest.values())
    return causal or window_size_right == 0, scale or query.shape[-1] ** -0.5


def _histogram(values, bins=100, min=0, max=0):
    """The CPU's knows no whole numbers."""
    return torch.histc(values.cpu().float(), bins, min, max).to(values)


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("_flash_attention_forward", _attention, "CUDA")
_LIBRARY.impl("_flash_attention_backward", _attention_backward, "CUDA")
_LIBRARY.impl("histc", _histogram, "CUDA")


def _as_nccl() -> None:
    """Let ranks talk by gloo and be told that it is NCCL, which takes tensors of the device alone."""
    dist = torch.distributed
    begin, backend_of = dist.init_process_group, dist.get_backend
    dist.Backend.default_device_backend_map["cuda"] = "gloo"

    def begin_by_gloo(backend: str | None = None, *args, device_id=None, **options) -> None:
        begin(backend and backend.replace("nccl", "gloo"), *args, **options)

    dist.init_process_group = begin_by_gloo
    dist.get_backend = lambda group=None: "nccl" if str(backend_of(group)) == "gloo" else backend_of(group)

    def refuse_host(name: str) -> None:
        collective = getattr(dist, name)

        def checked(*args, **options):
            tensors = [one for one in (*args, *options.values()) if isinstance(one, torch.Tensor)]
            if not all(tensor.is_cuda for tensor in tensors):
                raise RuntimeError(f"No backend type associated with device type cpu ({name})")
            if options.get("op") != dist.ReduceOp.AVG or tensors[0].is_floating_point():
                return collective(*args, **options)
            collective(*args, **options | {"op": dist.ReduceOp.SUM})  # gloo has no mean of whole numbers
            return tensors[0].div_(dist.get_world_size(options.get("group")), rounding_mode="floor")

        setattr(dist, name, checked)

    torch.cuda.nccl.version = lambda: (2, 27, 3)
    for name in ("all_reduce", "reduce", "broadcast", "all_gather_into_tensor", "all_to_all_single", "gather"):
        refuse_host(name)


_as_nccl()


@atexit.register
def _end() -> None:
    time.sleep(0.2)  # torch's thread for the device may still free a graph, and aborts if Python ends meanwhile
    if folder := os.environ.get("EMULATED_GPU_TOLD"):
        told = {**DONE, "peak_bytes": _DEVICE.emulated_peak()}
        (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(told))
