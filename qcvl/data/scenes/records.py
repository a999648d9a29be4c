"""Scenes as a sequence of records, drawn when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcvl.data.scenes.draw import draw_scene
from qcvl.data.scenes.surfaces import SIDE
from qcvl.data.scenes.words import Domain, Language
from qcvl.schema.records import Record


@dataclass(frozen=True)
class SceneRecords(Sequence[Record]):
    """Record ``i`` of ``length`` is scene ``i`` of ``(seed, domain)``; its image is the RGB array itself."""

    length: int
    seed: int
    domain: Domain
    language: Language

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        scene = draw_scene(self.seed, index, self.domain, self.language)
        return Record(
            images=(scene.image,),
            annotations=tuple(scene.annotations),
            sizes=((SIDE, SIDE),),
            summary=scene.summary,
            metadata={"label": scene.label, "language": self.language},
            path=Path(f"scenes-{self.domain}-{self.language}"),
            line=index,
        )
