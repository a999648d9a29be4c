"""Ops and pipelines in one line, with the numbers of ``conf/augment/none.yaml`` where a test names none."""

import importlib

from qcvl.augment.base import Compose
from tests.conftest import choice

PRESET = choice("augment/none.yaml")


def op(name, **changes):
    """``op("hflip", p=1.0)``: the op of that name, enabled for every sample unless ``p`` says otherwise."""
    given = dict(PRESET["ops"][name])
    module, _, cls = given.pop("_target_").rpartition(".")
    always = {"p": 1.0} if "p" in given else {}
    return getattr(importlib.import_module(module), cls)(**given | always | changes)


def compose(*, order=None, ops=None, **settings):
    """A pipeline of ``ops`` in the given order; other keywords are settings of Compose or more ops."""
    names = [name for name in settings if name in PRESET]
    own = {name: settings.pop(name) for name in names}
    ops = {**(ops or {}), **settings}
    return Compose(**PRESET | {"ops": ops, "order": list(ops) if order is None else order} | own)


def plain_crop(**changes):
    """``random_crop`` of the photo's own aspect, of lines too."""
    return op("random_crop", **{"min_aspect": 1.0, "max_aspect": 1.0, "skip_if_line": False} | changes)
