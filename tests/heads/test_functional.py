"""The arithmetic that heads share, against plain definitions and at its edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fsar.errors import InputError
from fsar.heads.layers.alignment import ProductAlignment, fits_products, log_alignment
from fsar.heads.layers.frame_tuples import slot_vectors, tuple_slots
from fsar.heads.layers.functional import (
    class_means,
    frame_distances,
    group_by_class,
    hausdorff,
    offset_cosine,
    soft_alignment,
    take_videos,
    two_way_alignment,
)
from fsar.heads.layers.split_linear import block_linear


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alignment_by_cells(distance, smoothing: float) -> float:
    """The published recursion, cell by cell in Python floats: zero columns left and right, plain sums in row 0."""
    rows = [[0.0, *row, 0.0] for row in distance.tolist()]
    last = len(rows[0]) - 1

    def soft_minimum(*costs: float) -> float:
        return -smoothing * math.log(sum(math.exp(-cost / smoothing) for cost in costs))

    above = [sum(rows[0][: m + 1]) for m in range(last + 1)]
    for row in rows[1:]:
        here = [0.0]
        for m in range(1, last + 1):
            ways = [above[m - 1], here[m - 1]] + ([above[m]] if m in (1, last) else [])
            here.append(row[m] + soft_minimum(*ways))
        above = here
    return above[last]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 7), columns=st.integers(1, 7), seed=st.integers(0, 99), smoothing=st.sampled_from([0.1, 0.5])
)
def test_both_alignments_are_the_published_recursion(rows, columns, seed, smoothing):
    distance = torch.rand(3, rows, columns, generator=generator(seed))
    expected = torch.tensor([alignment_by_cells(matrix, smoothing) for matrix in distance])
    torch.testing.assert_close(log_alignment(distance, smoothing), expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(ProductAlignment.apply(distance, smoothing), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 4), (4, 1), (2, 3, 4, 5)])
def test_gradient_of_alignment_is_exact(shape):
    distance = torch.rand(1, *shape, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: ProductAlignment.apply(x, 0.3), distance)


def test_alignment_stays_finite_where_products_cannot():
    """Far, long and cheap: 40 frames at distance 2 would need exp(-800)."""
    distance = torch.full((1, 1, 40, 40), 2.0, requires_grad=True)
    assert not fits_products(distance, 0.1)
    cost = soft_alignment(distance, 0.1)
    cost.sum().backward()
    assert cost.isfinite().all()
    assert distance.grad is not None
    assert distance.grad.isfinite().all()


def test_alignment_of_sixteen_orthogonal_frames_is_finite():
    """The published float32 recursion gives infinity here."""
    distance = torch.full((1, 1, 16, 16), 2.0)
    torch.testing.assert_close(soft_alignment(distance, 0.1), log_alignment(distance, 0.1))
    assert soft_alignment(distance, 0.1).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alignment_leaves_its_input_alone(dtype):
    distance = torch.rand(2, 3, 4, 4, generator=generator(), dtype=dtype)
    before = distance.clone()
    soft_alignment(distance, 0.1)
    torch.testing.assert_close(distance, before, rtol=0, atol=0)


def test_alignment_of_one_matrix_is_a_scalar():
    distance = torch.rand(3, 4, generator=generator())
    torch.testing.assert_close(soft_alignment(distance, 0.5), soft_alignment(distance.unsqueeze(0), 0.5)[0])


def test_alignment_of_nan_is_nan():
    assert soft_alignment(torch.full((2, 4, 4), math.nan), 0.1).isnan().all()


def test_two_way_alignment_handles_videos_of_different_length():
    distance = torch.rand(2, 3, 4, 6, generator=generator())
    expected = soft_alignment(distance, 0.1) + soft_alignment(distance.transpose(-1, -2).contiguous(), 0.1)
    torch.testing.assert_close(two_way_alignment(distance, 0.1), expected)


def test_class_means_weigh_unequal_shots():
    x = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]])
    means = class_means(x, torch.tensor([[1, 1, 0]]), 2)
    torch.testing.assert_close(means, torch.tensor([[[0.0, 5.0], [2.0, 0.0]]]))


def test_class_means_keep_trailing_axes():
    x = torch.rand(2, 3, 4, 5, generator=generator())
    labels = torch.tensor([[0, 1, 1], [1, 0, 0]])
    means = class_means(x, labels, 2)
    assert means.shape == (2, 2, 4, 5)
    torch.testing.assert_close(means[1, 0], x[1, 1:].mean(0))


def test_cosine_of_zero_vectors_is_zero_with_finite_gradient():
    a = torch.zeros(2, 3, 4, requires_grad=True)
    cosine = offset_cosine(a, torch.zeros(2, 5, 4))
    assert not cosine.any()
    cosine.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_frame_distances_put_query_frames_in_rows():
    query, support = (torch.randn(2, n, t, 8, generator=generator(n)) for n, t in ((3, 4), (5, 6)))
    distance = frame_distances(query, support)
    assert distance.shape == (2, 3, 5, 4, 6)
    q, s = query[1, 2, 3], support[1, 4, 5]
    torch.testing.assert_close(distance[1, 2, 4, 3, 5], 1 - q @ s / (q.norm() * s.norm() + 0.01))


def test_hausdorff_sums_the_nearest_of_both_directions():
    distance = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.5, 6.0]])
    torch.testing.assert_close(hausdorff(distance), torch.tensor((1 + 0.5) + (1 + 0.5 + 2)))


def test_grouping_pads_classes_with_few_shots():
    labels = torch.tensor([[2, 0, 1, 0, 2, 2]])
    index, mask = group_by_class(labels, 3, 3)
    assert mask.tolist() == [[[True, True, False], [True, False, False], [True, True, True]]]
    x = torch.arange(6.0).view(1, 6, 1)
    grouped = take_videos(x, index)[..., 0]
    assert grouped[mask].tolist() == [1.0, 3.0, 2.0, 0.0, 4.0, 5.0]


@pytest.mark.parametrize(("n_frames", "size"), [(3, 2), (8, 2), (8, 3), (5, 1), (4, 4)])
def test_tuples_are_sums_of_slot_vectors(n_frames, size):
    x = torch.randn(2, n_frames, 6, generator=generator())
    weight, bias = torch.randn(5, size * 6, generator=generator(1)), torch.randn(5, generator=generator(2))
    frames = torch.combinations(torch.arange(n_frames), size)  # (P, w), lexicographic
    expected = x[:, frames].flatten(2) @ weight.T + bias
    slots = tuple_slots(n_frames, size, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(slots @ slot_vectors(x, weight, bias, size), expected)


def test_too_few_frames_for_a_tuple_is_an_input_error():
    with pytest.raises(InputError, match="tuples of 3 frames need at least 3 frames per video, got 2"):
        tuple_slots(2, 3, torch.device("cpu"), torch.float32)


def test_block_linear_is_the_map_of_a_concatenation():
    a, b = (torch.randn(4, 3, generator=generator(s)) for s in (1, 2))
    weight = torch.randn(5, 6, generator=generator(3))
    torch.testing.assert_close(sum(block_linear(weight, a, b)), torch.cat((a, b), 1) @ weight.T)


def test_gradient_of_block_linear_is_exact():
    a, b = (torch.randn(r, 3, generator=generator(r), dtype=torch.float64, requires_grad=True) for r in (4, 2))
    weight = torch.randn(5, 6, generator=generator(3), dtype=torch.float64, requires_grad=True)
    assert gradcheck(block_linear, (weight, a, b))


def test_block_linear_obeys_autocast():
    weight = torch.randn(5, 6, generator=generator(), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, _ = block_linear(weight, torch.ones(4, 3), torch.ones(2, 3))
    assert image.dtype == torch.bfloat16
    image.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (2, 4)), ((2, 3, 4), (2, 5, 4)), ((2, 3, 4), (5, 4)), ((3, 4), (2, 1, 4)), ((1, 2, 4), (3, 2, 4))],
)
def test_gradient_of_cosine_is_exact(a, b):
    draw = generator()
    x = torch.randn(a, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.randn(b, generator=draw, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, y: offset_cosine(x, y, 0.3), (x, y))


def test_cosine_with_a_zero_vector_is_zero_and_has_a_gradient():
    x = torch.zeros(2, 4, requires_grad=True)
    y = torch.rand(3, 4, generator=generator())
    cosine = offset_cosine(x, y)
    cosine.sum().backward()
    assert not cosine.any()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (y / 0.01).sum(0).expand(2, 4))
