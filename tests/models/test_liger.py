"""``model.liger``: the same losses and gradients through Liger's kernels, and a clear word where they cannot run.

Triton's interpreter stands in for the GPU: it runs the kernels' own code, program by program, in numpy.
"""

import pytest
import torch

from qcvl.errors import ConfigError
from qcvl.models import liger
from qcvl.models.liger import LigerMLP, LigerNorm, stock_kernels
from tests.conftest import LIGER
from tests.models.conftest import make_sample, pack, scratch
from tests.models.test_attention import assert_same, loss_and_gradients
from tests.models.test_families import family_settings

# Of two text layers and two vision blocks: (norms, gated MLPs) that are Liger's. Qwen3-VL has norms of queries and keys
# as well, Qwen2.5-VL norms and gated MLPs in its vision blocks and a norm in its merger; of the mixture's two MLPs one
# is experts.
SWAPPED = {"qwen3_vl": (9, 2), "qwen2_5_vl": (10, 4), "qwen2_vl": (5, 2), "qwen3_vl_moe": (9, 1)}


def test_a_gpu_is_asked_for(monkeypatch, tokenizer_folder):
    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r"model.liger: .* torch sees none; use model.liger=false"):
        scratch(tokenizer_folder, liger=True).load_model()


def test_what_is_not_installed_is_named(monkeypatch, tokenizer_folder):
    monkeypatch.setattr(liger, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'qcvl\[liger\]'"):
        scratch(tokenizer_folder, liger=True).load_model()


def load(tokenizer_folder, family, **changes):
    settings = family_settings(tokenizer_folder, family, **changes)
    return settings.load_model().train(), settings.load_processing()


@pytest.mark.parametrize("family", list(SWAPPED))
class TestKernels:
    pytestmark = LIGER

    def test_loss_and_every_gradient_are_those_of_the_stock_layers(self, triton_interpreter, tokenizer_folder, family):
        plain, processing = load(tokenizer_folder, family)
        model, _ = load(tokenizer_folder, family, liger=True)
        found = [[isinstance(part, kind) for part in model.modules()].count(True) for kind in (LigerNorm, LigerMLP)]
        assert tuple(found) == SWAPPED[family]
        batch = pack([make_sample(processing, sizes, 6, seed) for seed, sizes in enumerate([[], [(60, 60)]])])
        assert_same(loss_and_gradients(model, [batch]), loss_and_gradients(plain, [batch]))

    def test_stock_layers_come_back_where_they_are_asked_for(self, tokenizer_folder, family):
        # Without the shims of the interpreter no kernel would run.
        plain, processing = load(tokenizer_folder, family)
        model, _ = load(tokenizer_folder, family, liger=True)
        batch = pack([make_sample(processing, [(60, 60)], 6, 0)])
        with stock_kernels():
            assert torch.equal(loss_and_gradients(model, [batch])[0], loss_and_gradients(plain, [batch])[0])
