"""Whether a short training did what it should: learned its records, was saved whole, and took what was foreseen."""

import math
from collections.abc import Sequence
from os.path import commonprefix

from qcvl.doctor.parity import Example
from qcvl.models.memory import StepMemory
from qcvl.viz.verdicts import Verdict

TIMED = 5  # steps that a speed needs
NEAR = (0.75, 1.25)  # measured memory over the estimate's
GIB = 2**30


def check_answers(replies: Sequence[str], examples: Sequence[Example], losses: Sequence[float]) -> Verdict:
    """What the trained model writes by itself against the answers it was trained on."""
    exact = [reply == example.answer for reply, example in zip(replies, examples, strict=True)]
    told = (
        f"{sum(exact)} of {len(exact)} answers exact; loss {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} steps"
    )
    if not all(exact):
        place = exact.index(False)
        told += f"; {examples[place].where}: {replies[place][:80]!r}"
    return Verdict(
        "overfit",
        bool(exact) and all(exact),
        told,
        "all exact by greedy decoding",
        "where the loss still falls: trainer.max_steps=60; where it jumps about: halve stage.rates.adapter; weights "
        "that were never trained need tuner=full stage=3 stage.rates.full=3e-3 and 60 to some hundred steps",
    )


def check_reload(trained: Sequence[str], reloaded: Sequence[str], size: int) -> Verdict:
    """Answers of the trained model against those of its checkpoint, merged, written, and read by plain transformers."""
    differ = [place for place, pair in enumerate(zip(trained, reloaded, strict=True)) if pair[0] != pair[1]]
    told = f"{len(trained) - len(differ)} of {len(trained)} answers the same, {_size(size)} merged"
    if differ:
        before, after = trained[differ[0]], reloaded[differ[0]]
        place = max(0, len(commonprefix([before, after])) - 20)  # some of what is the same, and where it is not
        told += f"; {before[place : place + 60]!r} became {after[place : place + 60]!r}"
    return Verdict(
        "reload",
        not differ,
        told,
        "all the same after save, merge and reload in plain transformers",
        "python -m qcvl.export dtype=float32, for bfloat16 may round an adapter's change away; where answers still "
        "differ, serve the base with the adapter beside it and not the merged model",
    )


def check_speed(seconds: Sequence[float], tokens: Sequence[int], mfu: float | None) -> Verdict:
    """Tokens a second over steps of ``tokens`` each that took ``seconds``; loading data and validating left out."""
    enough = len(seconds) >= TIMED and min(seconds) > 0
    told = f"{len(seconds)} steps timed"
    if enough:
        rate = sum(tokens) / math.fsum(seconds)
        told = f"{rate:,.0f} tokens/s over {told}, {sum(tokens) / len(tokens):,.0f} tokens each"
        told += "" if mfu is None else f", MFU {mfu:.1%}"
    return Verdict(
        "speed",
        enough,
        told,
        f"measured over {TIMED} steps or more",
        "let it train longer: trainer.max_steps=20",
    )


def check_memory(peak: int, estimate: StepMemory) -> Verdict:
    """The most bytes of tensors in training against what was foreseen before its first step."""
    share = peak / estimate.total
    parts = " + ".join(f"{name} {_size(value)}" for name, value in estimate._asdict().items())
    least, most = NEAR
    advice = (
        "plan with the measured figure; where it is above the estimate, something holds tensors that a step does not "
        "need: leave out callbacks of your own, set model.attn=auto"
    )
    return Verdict(
        "memory",
        least <= share <= most,
        f"peak {_size(peak)}, {share:.2f} of the estimate",
        f"{least:g} to {most:g} of {_size(estimate.total)} ({parts})",
        advice,
    )


def _size(count: float) -> str:
    return f"{count / GIB:.3g} GiB" if count >= GIB / 10 else f"{count / 2**20:.3g} MiB"
