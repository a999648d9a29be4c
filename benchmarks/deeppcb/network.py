"""A small CNN that says what a window shows (a class of defect, or background) and where the defect's box lies."""

from collections.abc import Iterator

import numpy as np
import torch
from candidates import SIDE
from torch import Tensor, nn
from torch.nn import functional as F

SHIFT = 8  # px that training windows move at most, each way
BOX_SCALE = 32.0  # px, of one unit of the box head
BATCH = 64
PEAK_RATE = 3e-3
WEIGHT_DECAY = 0.02


class WindowNet(nn.Module):
    """uint8 windows ``[N, 2, SIDE, SIDE]`` to class logits ``[N, classes + 1]`` and boxes ``[N, 4]`` in units."""

    def __init__(self, classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            _block(3, 16, stride=2, kernel=5),
            _block(16, 32, stride=2),
            _block(32, 64, stride=2),
            _block(64, 64, stride=1),
            _block(64, 64, stride=2),
            nn.Flatten(),
            nn.Linear(64 * (SIDE // 16) ** 2, 96),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.heads = nn.Linear(96, classes + 1 + 4)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        photo, template = (windows.float() / 127.5 - 1).unbind(1)
        found = self.heads(self.layers(torch.stack([photo, template, (photo - template)], dim=1)))
        return found[:, :-4], found[:, -4:]


def _block(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def train(windows: Tensor, labels: Tensor, boxes: Tensor, classes: int, epochs: int, seed: int) -> WindowNet:
    """A network trained on windows that are ``2 * SHIFT`` larger than those it sees, with boxes in px."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    net = WindowNet(classes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    defects, others = (np.flatnonzero(mask) for mask in (labels < classes, labels == classes))
    per_epoch = len(defects) + min(len(defects), len(others))
    steps = epochs * -(-per_epoch // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.1)
    net.train().to(memory_format=torch.channels_last)
    for rows in _batches(defects, others, epochs, random):
        seen, where = _augment(windows[rows], boxes[rows], random)
        kinds = labels[rows]
        logits, found = net(seen)
        shown = kinds < classes
        loss = F.cross_entropy(logits, kinds)
        if shown.any():
            loss = loss + F.smooth_l1_loss(found[shown], where[shown] / BOX_SCALE, beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _batches(defects: np.ndarray, others: np.ndarray, epochs: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Rows of every defect once an epoch, among as many of the background, drawn anew each time."""
    for _ in range(epochs):
        background = random.permutation(others)[: len(defects)]
        rows = random.permutation(np.concatenate([defects, background]))
        yield from torch.from_numpy(rows).split(BATCH)


def _augment(windows: Tensor, boxes: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The batch moved by up to SHIFT px, flipped and turned, one draw for all of it."""
    x, y = random.integers(0, 2 * SHIFT + 1, 2).tolist()
    windows = windows[:, :, y : y + SIDE, x : x + SIDE]
    boxes = boxes + SHIFT - boxes.new_tensor([x, y, x, y])
    flip_x, flip_y, swap = random.integers(0, 2, 3).tolist()
    if flip_x:
        windows, boxes = windows.flip(3), boxes[:, [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1])
    if flip_y:
        windows, boxes = windows.flip(2), boxes[:, [0, 3, 2, 1]] * boxes.new_tensor([1, -1, 1, -1])
    if swap:
        windows, boxes = windows.transpose(2, 3), boxes[:, [1, 0, 3, 2]]
    return windows, boxes
