"""What a settings object is: one frozen declaration per setting, checked when it is made."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type) -> type:
    """Make ``cls`` a frozen, keyword-only pydantic dataclass that refuses unknown fields.

    Settings carry no defaults: every field is listed in the YAML of its config group, so a run's ``config.yaml`` is
    complete and a later release cannot change an old run.
    """
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return dataclass(cls, frozen=True, kw_only=True, config=config)
