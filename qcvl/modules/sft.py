"""Supervised fine-tuning: next-token cross-entropy on label positions only, and an optional grounding loss."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qcvl.data.dataset import CLASS_LIMIT
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.errors import ConfigError
from qcvl.losses.balance import load_balance
from qcvl.losses.cross_entropy import label_cross_entropy
from qcvl.losses.grounding import GroundingHead
from qcvl.models.forward import hidden_states, normalised, unwrap
from qcvl.models.towers import is_router
from qcvl.modules.base import VLModule
from qcvl.tuning.full import make_trainable
from qcvl.tuning.groups import module_groups

CHUNK = 4096  # tokens whose logits exist at once: 2.4 GiB in fp32 at a vocabulary of 151,936


class SFTModule(VLModule):
    """Cross-entropy on answers; with ``aux_grounding`` > 0 also a dense loss on the visual tokens.

    The auxiliary head names one of ``CLASS_LIMIT`` descs (see ``data.dataset.class_table``) over each visual token and
    places its outline; it is trained at the language model's rate, kept in the trainer's state and left out of the
    saved model.
    """

    def __init__(self, *, aux_grounding: float, load_balance: float, **parts: Any) -> None:
        super().__init__(**parts)
        self.aux_grounding, self.load_balance = aux_grounding, load_balance
        self.grounding: GroundingHead | None = None

    def configure_model(self) -> None:
        """Build the tuned model, and the auxiliary head when it has a weight."""
        super().configure_model()
        if self.load_balance:
            self._balance_routers()
        if self.aux_grounding and self.grounding is None:
            hidden = unwrap(self.built).config.text_config.hidden_size
            self.grounding = GroundingHead(hidden, CLASS_LIMIT)

    def _balance_routers(self) -> None:
        """Let routers train where the language model's own weights do.

        Raises:
            ConfigError: where no experts are trained.
        """
        routers = [parameter for name, parameter in self.built.named_parameters() if is_router(name)]
        way = self.tuner.way("llm", self.stage.towers)
        if not routers or way == "frozen":
            found = f"stage={self.stage.number} leaves the llm frozen" if routers else "the model has no experts"
            raise ConfigError(f"objective.load_balance={self.load_balance:g}: {found}; set objective.load_balance=0")
        for parameter in routers if way == "full" else ():
            make_trainable(parameter)

    def extra_groups(self) -> list[dict[str, Any]]:
        """The auxiliary head's own parameter groups."""
        if self.grounding is None:
            return []
        rate = self.stage.rate("grounding", "full") * self.spec.lr_multiplier
        return module_groups(self.grounding, "grounding", rate, self.optimizer_settings.weight_decay)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the batch: ``sft_sum`` by label kind and ``correct`` over labels, ``aux_sum`` over cells.

        ``balance_sum`` is the batch's load-balancing loss times its labels, by which batches are weighed in a step.
        """
        pixels = normalised(batch["pixel_values"], self.processing.family)
        segments = tuple(batch["segments"].tolist())
        inputs = {**batch, "pixel_values": pixels, "segments": segments}
        hidden = hidden_states(self.built, inputs, routing=self.load_balance > 0)
        sums = answer_loss(self.built, hidden.states, batch["labels"], batch["label_kinds"])
        if self.load_balance:
            top_k = unwrap(self.built).config.text_config.num_experts_per_tok
            sums["balance_sum"] = (
                load_balance(hidden.router_logits, top_k, batch.get("share")) * (batch["label_kinds"] > 0).sum()
            )
        if self.grounding is not None and "cell_classes" in batch:
            sums["aux_sum"] = self.grounding.loss(hidden.visual, batch["cell_classes"], batch["cell_points"]).total
        return sums

    def combine(self, sums: dict[str, Tensor], labels: Tensor, cells: Tensor) -> Tensor:
        """Mean cross-entropy by token weights, plus the weighted mean auxiliary losses where there are any."""
        loss = super().combine(sums, labels, cells)
        if "balance_sum" in sums:
            loss = loss + self.load_balance * sums["balance_sum"] / labels.sum().clamp(min=1)
        return loss + self.aux_grounding * sums["aux_sum"] / cells if "aux_sum" in sums else loss

    def means(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """``sft_loss``, ``token_acc``, ``aux_loss`` and ``balance_loss``."""
        values = super().means(totals)
        if "balance_sum" in totals:
            values["balance_loss"] = totals["balance_sum"] / totals["labels"].sum().clamp(min=1)
        if "aux_sum" not in totals:
            return values
        return values | {"aux_loss": totals["aux_sum"] / totals["cells"].clamp(min=1)}


def answer_loss(model: torch.nn.Module, states: Tensor, labels: Tensor, label_kinds: Tensor) -> dict[str, Tensor]:
    """``sft_sum`` ``[LABEL_KINDS]`` and ``correct`` over the label tokens of one row.

    Args:
        model: gives the LM head's weight ``[V, H]``.
        states: final hidden states ``[1, L, H]``.
        labels: int64 ``[1, L]``, -100 where nothing is to be learned. The label at ``p`` is predicted at ``p - 1``;
            each sample's first label is -100, so no sample predicts into the next.
        label_kinds: int8 ``[1, L]``, 0 where there is no label.
    """
    index = before_labels(label_kinds)
    weight = unwrap(model).get_output_embeddings().weight
    losses, correct = label_cross_entropy(states[0, index], weight, labels[0, index + 1], CHUNK)
    kinds = F.one_hot(label_kinds[0, index + 1].long() - 1, len(LABEL_KINDS))
    return {"sft_sum": (losses[:, None] * kinds).sum(0), "correct": correct}


def before_labels(label_kinds: Tensor) -> Tensor:
    """The places int64 ``[N]`` of a row at which its ``N`` labels are predicted, from ``label_kinds [1, L]``."""
    return label_kinds[0, 1:].nonzero()[:, 0]
