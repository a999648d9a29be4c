"""How answers are written. Torch-free."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from qcvl.schema.settings import settings


@settings
class Generation:
    """At most ``max_new_tokens`` tokens an answer, greedy at temperature 0, else drawn from the nucleus ``top_p``.

    ``batch_size`` photos are answered at once; it changes speed and memory, not greedy answers.
    """

    max_new_tokens: PositiveInt
    temperature: Annotated[float, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    batch_size: PositiveInt


@settings
class Tiles:
    """Photos are answered window by window, and what several windows say of one place is merged by votes.

    Attributes:
        size: Side in photo pixels of the square windows, best the one the model sees without resizing.
        overlap: The fewest pixels neighbouring windows share; an object up to this size is whole in some window.
        views: Each window is asked in the first so many of the square's eight flips and turns (1: only as it is).
        border_weight: Weight of an object that touches an inner border of its window, where it may be cut.
        same_iou: Objects that overlap by more than this IoU are one object.
    """

    size: PositiveInt
    overlap: NonNegativeInt
    views: Annotated[int, Field(ge=1, le=8)]
    border_weight: Annotated[float, Field(ge=0, le=1)]
    same_iou: Annotated[float, Field(gt=0, lt=1)]

    def __post_init__(self) -> None:
        if self.overlap >= self.size:
            raise ValueError(f"overlap {self.overlap} leaves no way forward in windows of {self.size} pixels; lower it")
