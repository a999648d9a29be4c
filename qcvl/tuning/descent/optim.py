"""Muon and AdamW as one optimizer: Lightning's automatic optimization takes exactly one."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from qcvl.tuning.descent.muon import StackedMuon


class MuonWithAdamW(Optimizer):
    """``StackedMuon`` on the groups flagged ``matrix`` and ``torch.optim.AdamW`` on the others.

    The steps are torch's: both optimizers work on this one's state and groups, so that ``state_dict``, schedulers
    and hooks see a single optimizer. A group's ``lr`` is AdamW's rate; Muon steps by ``lr * lr_scale``.

    Args:
        groups: parameter groups with ``lr`` and, where Muon's, ``matrix=True`` and 2-D parameters only.
        adamw: keyword arguments of ``torch.optim.AdamW`` for groups that do not set them.
        muon: keyword arguments of ``torch.optim.Muon`` for groups that do not set them.
        lr_scale: Muon's rate as a multiple of its group's.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, adamw: dict[str, Any], muon: dict[str, Any], lr_scale: float
    ) -> None:
        for group in groups:
            group.setdefault("matrix", False)
        matrix = [{**group, "lr_scale": lr_scale} for group in groups if group["matrix"]]
        other = [group for group in groups if not group["matrix"]]
        self._muon = StackedMuon(matrix, **muon) if matrix else None
        self._adamw = torch.optim.AdamW(other, **adamw) if other else None
        super().__init__([group for part in self._parts() for group in part.param_groups], defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both optimizers; returns what ``closure`` (which recomputes the loss) returns, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts():
            # Linked at each step, because load_state_dict and unpickling replace the state and the groups.
            part.state = self.state
            mine = [group for group in self.param_groups if group["matrix"] == (part is self._muon)]
            part.param_groups = [{**group, "lr": group["lr"] * group.get("lr_scale", 1.0)} for group in mine]
            part.step()
        return loss

    def _parts(self) -> list[Optimizer]:
        return [part for part in (self._muon, self._adamw) if part is not None]
