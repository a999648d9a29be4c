"""What lies over each visual token, and the loss of a head that must say so."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.geometry.shapes import Shape
from qcvl.losses.grounding import GroundingHead
from qcvl.losses.grounding_targets import control_points, grounding_targets

SIZE, GRID = (80, 60), (3, 4)  # cells of 20 x 20 pixels, centres at 10, 30, 50 …


def classes(shapes: list[Shape], ids: list[int], size: tuple = SIZE, grid: tuple = GRID) -> list[list[int]]:
    return grounding_targets(shapes, ids, size, grid)[0].reshape(grid).tolist()


def test_a_cell_belongs_to_the_box_over_its_centre():
    assert classes([Shape("bbox_2d", [5, 5, 35, 29])], [2]) == [[2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@settings(deadline=None)  # results are judged, not speed
@given(
    x=st.integers(0, 79), y=st.integers(0, 59), width=st.integers(1, 80), height=st.integers(1, 60),
    rows=st.integers(1, 6), columns=st.integers(1, 6),
)  # fmt: skip
def test_boxes_cover_the_centres_between_their_edges(x, y, width, height, rows, columns):
    found = classes([Shape("bbox_2d", [x, y, x + width, y + height])], [1], SIZE, (rows, columns))
    for row, column in np.ndindex(rows, columns):
        cx, cy = (column + 0.5) * 80 / columns, (row + 0.5) * 60 / rows
        if min(abs(cx - x), abs(cx - x - width), abs(cy - y), abs(cy - y - height)) > 1e-6:
            assert found[row][column] == (x < cx < x + width and y < cy < y + height)


def test_a_polygon_covers_by_its_outline_and_not_by_its_bounding_box():
    triangle = Shape("poly", [0, 0, 80, 0, 0, 60])
    centres = [(column * 20 + 10, row * 20 + 10) for row in range(3) for column in range(4)]
    inside = [5 * (x / 80 + y / 60 < 1) for x, y in centres if abs(x / 80 + y / 60 - 1) > 1e-9]
    found = np.array(classes([triangle], [5])).ravel()
    assert [int(v) for v, (x, y) in zip(found, centres, strict=True) if abs(x / 80 + y / 60 - 1) > 1e-9] == inside


def test_a_line_covers_centres_within_six_tenths_of_a_cell():
    assert classes([Shape("line", [0, 21, 80, 21])], [1]) == [[1] * 4, [1] * 4, [0] * 4]  # .55 and .45 cells away
    assert classes([Shape("line", [0, 23, 80, 23])], [1]) == [[0] * 4, [1] * 4, [0] * 4]  # .65 and .35 cells away


def test_the_reach_of_a_line_is_measured_in_cells_where_these_are_not_square():
    near = classes([Shape("line", [43, 0, 43, 60])], [1], (80, 60), (6, 2))  # cells 40 wide: .575 and .425 cells
    far = classes([Shape("line", [45, 0, 45, 60])], [1], (80, 60), (6, 2))  # .625 and .375 cells
    assert (near, far) == ([[1, 1]] * 6, [[0, 1]] * 6)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_smaller_object_wins_in_any_order(order):
    shapes = [Shape("bbox_2d", [0, 0, 80, 60]), Shape("bbox_2d", [25, 25, 35, 35])]
    found = classes([shapes[i] for i in order], [[7, 9][i] for i in order])
    assert found == [[7, 7, 7, 7], [7, 9, 7, 7], [7, 7, 7, 7]]


def test_the_later_of_two_equal_objects_wins():
    box = Shape("bbox_2d", [0, 0, 20, 20])
    assert classes([box, box], [1, 2])[0][0] == 2


def test_a_cable_shows_on_the_plate_under_it():
    plate, cable = Shape("bbox_2d", [0, 0, 80, 60]), Shape("line", [0, 10, 80, 10])
    assert classes([plate, cable], [1, 2]) == [[2] * 4, [1] * 4, [1] * 4]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Shape("bbox_2d", [10, 20, 30, 50]), [[10, 20], [30, 20], [30, 50], [10, 50]]),
        (Shape("quad", [40, 10, 30, 30, 10, 20, 20, 5]), [[20, 5], [40, 10], [30, 30], [10, 20]]),
        (Shape("poly", [0, 0, 40, 0, 40, 40, 20, 40, 0, 40]), [[0, 0], [40, 0], [40, 40], [0, 40]]),
        (Shape("line", [30, 0, 0, 0]), [[0, 0], [10, 0], [20, 0], [30, 0]]),
        (Shape("line", [0, 0, 10, 0, 10, 50]), [[0, 0], [10, 10], [10, 30], [10, 50]]),
    ],
    ids=["box", "quad", "polygon", "line", "bent line"],
)
def test_control_points_by_kind(shape, expected):
    assert control_points(shape) == pytest.approx(np.array(expected, dtype=float))


def test_points_are_shares_of_the_image_and_zero_without_an_object():
    found, points = grounding_targets([Shape("bbox_2d", [0, 0, 20, 15])], [1], SIZE, GRID)
    assert (found.dtype, points.dtype, points.shape) == (np.int64, np.float32, (12, 8))
    assert points[0] == pytest.approx([0, 0, 0.25, 0, 0.25, 0.25, 0, 0.25])
    assert not points[1:].any()


def test_points_outside_the_frame_are_clamped_to_it():
    _, points = grounding_targets([Shape("bbox_2d", [-40, -30, 40, 90])], [1], SIZE, GRID)
    assert points[0] == pytest.approx([0, 0, 0.5, 0, 0.5, 1, 0, 1])


def test_no_objects_give_empty_cells_and_a_bow_tie_is_no_error():
    assert classes([], []) == [[0] * 4] * 3
    assert classes([Shape("quad", [0, 0, 80, 60, 80, 0, 0, 60])], [1])[1] != [0] * 4


@pytest.mark.parametrize("ids", [[0], [1, 2]])
def test_class_ids_start_at_one_and_match_the_shapes(ids):
    with pytest.raises(ValueError, match="one id from 1 up for each"):
        grounding_targets([Shape("bbox_2d", [0, 0, 9, 9])], ids, SIZE, GRID)


def test_the_loss_is_cross_entropy_plus_three_times_the_mean_distance_under_objects():
    torch.manual_seed(0)
    head = GroundingHead(hidden=6, num_classes=3)
    tokens, points = torch.randn(5, 6), torch.rand(5, 8)
    labels = torch.tensor([0, 1, 3, 0, 2])
    total, cells, correct = head.loss(tokens, labels, points)
    normed = tokens / (tokens.square().mean(1, keepdim=True) + 1e-6).sqrt()
    out = normed @ head.linear.weight.T + head.linear.bias
    logits, guess = out[:, :4], 1 / (1 + torch.exp(-out[:, 4:]))
    entropy = sum(torch.logsumexp(row, 0) - row[label] for row, label in zip(logits, labels, strict=True))
    distance = sum((guess[i] - points[i]).abs().mean() for i in (1, 2, 4))
    assert total.item() == pytest.approx((entropy + 3 * distance).item(), rel=1e-5)
    assert (cells, correct.item()) == (5, (logits.argmax(1) == labels).sum().item())


def test_the_loss_of_parts_adds_up_to_the_loss_of_the_whole():
    torch.manual_seed(1)
    head = GroundingHead(hidden=6, num_classes=2)
    tokens, points, labels = torch.randn(7, 6), torch.rand(7, 8), torch.tensor([0, 1, 2, 0, 1, 0, 2])
    parts = [head.loss(tokens[cut], labels[cut], points[cut]) for cut in (slice(0, 3), slice(3, 7))]
    assert sum(part.total for part in parts).item() == pytest.approx(head.loss(tokens, labels, points).total.item())


def test_points_of_empty_cells_teach_nothing():
    head = GroundingHead(hidden=6, num_classes=2)
    tokens, labels = torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)
    head.loss(tokens, labels, torch.rand(4, 8)).total.backward()
    assert head.linear.weight.grad[3:].abs().sum() == 0
    assert head.linear.weight.grad[:3].abs().sum() > 0


def test_gradients_reach_the_tokens():
    head, tokens = GroundingHead(hidden=6, num_classes=2), torch.randn(4, 6, requires_grad=True)
    head.loss(tokens, torch.tensor([0, 1, 2, 1]), torch.rand(4, 8)).total.backward()
    assert tokens.grad.abs().sum(1).min() > 0


def test_tokens_without_a_target_count_neither_in_the_loss_nor_in_its_mean():
    torch.manual_seed(0)
    head, tokens = GroundingHead(8, 3), torch.randn(6, 8)
    classes, points = torch.tensor([1, 0, 2, -100, -100, -100]), torch.rand(6, 8)
    found, known = head.loss(tokens, classes, points), head.loss(tokens[:3], classes[:3], points[:3])
    assert found.total.item() == pytest.approx(known.total.item(), rel=1e-6)
    assert found.tokens == known.tokens == 3 and found.correct == known.correct
    nothing = head.loss(tokens[:0], classes[:0], points[:0])
    nothing.total.backward()
    assert nothing.total.item() == 0 and head.linear.weight.grad.abs().sum() == 0
