"""What a scene lies on, and its light: the base domain's brushed panels and the demo domain's dark benches."""

import cv2
import numpy as np

from qcvl.data.scenes.words import Domain

SIDE = 200  # pixels a side of every photo

PANELS = np.array([[186, 190, 194], [196, 192, 180], [176, 190, 200], [188, 198, 186]], np.float32)
BENCHES = np.array([[44, 50, 56], [36, 56, 54], [58, 48, 44], [40, 44, 66]], np.float32)
# The demo's lamp is warm: colours shift a little as well as the ground under them.
LAMPS: dict[Domain, np.ndarray] = {
    "base": np.array([1.0, 1.0, 1.0], np.float32),
    "demo": np.array([1.04, 0.97, 0.86], np.float32),
}


def surface(rng: np.random.Generator, domain: Domain) -> np.ndarray:
    """An empty photo, uint8 RGB ``[200, 200, 3]``: a brushed panel with a seam, or a bench mat with a ruled grid."""
    return _panel(rng) if domain == "base" else _bench(rng)


def _panel(rng: np.random.Generator) -> np.ndarray:
    brushed = cv2.blur(rng.standard_normal((SIDE, SIDE), np.float32), (31, 1)) * 14
    if rng.random() < 0.5:
        brushed = cv2.transpose(brushed)
    # From bright to nearly black: an eye that has seen one brightness alone finds nothing on a darker ground.
    shade = np.float32(rng.uniform(0.2, 1.05))
    colour = PANELS[rng.integers(len(PANELS))] * shade + np.float32(rng.uniform(-12, 12))
    image = _to_uint8(cv2.merge([brushed + value for value in colour]))
    for _ in range(rng.integers(1, 3)):
        at = int(rng.integers(20, SIDE - 20))
        start, end = ((at, 0), (at, SIDE)) if rng.random() < 0.5 else ((0, at), (SIDE, at))
        cv2.line(image, start, end, tuple(float(value) * 0.78 for value in colour), 1, cv2.LINE_AA)
    return image


def _bench(rng: np.random.Generator) -> np.ndarray:
    grain = cv2.resize(rng.standard_normal((SIDE // 2, SIDE // 2), np.float32), (SIDE, SIDE)) * 7
    mat = BENCHES[rng.integers(len(BENCHES))] + np.float32(rng.uniform(-6, 10))
    image = _to_uint8(cv2.merge([grain + value for value in mat]))
    pitch, offset = int(rng.integers(18, 30)), int(rng.integers(18))
    rule = tuple(float(value) + 22 for value in mat)
    for at in range(offset, SIDE, pitch):
        cv2.line(image, (at, 0), (at, SIDE), rule, 1)
        cv2.line(image, (0, at), (SIDE, at), rule, 1)
    return image


def photograph(image: np.ndarray, rng: np.random.Generator, domain: Domain) -> np.ndarray:
    """The scene as a camera sees it, uint8 ``[200, 200, 3]``: uneven light, the lamp's tint, slight blur and noise."""
    across = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = 0.22 * np.array([np.cos(angle), np.sin(angle)], np.float32)
    light = 1 + slope[0] * across[None, :] + slope[1] * across[:, None]
    noise = rng.standard_normal((SIDE, SIDE), np.float32) * 3
    blurred = cv2.GaussianBlur(image, (0, 0), 0.6).astype(np.float32)
    # Whole planes in place of broadcasting over the channels: three times as fast.
    return _to_uint8(blurred * cv2.merge([light * tint for tint in LAMPS[domain]]) + cv2.merge([noise] * 3))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)
