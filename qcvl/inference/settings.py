"""How answers are written. Torch-free."""

from typing import Annotated

from pydantic import Field, PositiveInt

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
