"""Augmentation against a plain loop, on every path; scales and statistics against NumPy in float64."""

import itertools

import numpy as np
import pytest
import torch
from makers import generator

from pursuitnet import data


def kind(tensor):
    return tuple(tensor.shape), tensor.dtype


def refusal(error, function, *arguments):
    """The words with which a call is refused."""
    with pytest.raises(error) as caught:
        function(*arguments)
    return str(caught.value)


def moved(image, down, right, mirrored, mode):
    """One image (C, H, W), pixel by pixel: mirrored or not, then moved down and right."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for c, y, x in itertools.product(range(channels), range(height), range(width)):
        row, column = y - down, width - 1 - (x - right) if mirrored else x - right
        if mode == "reflect":
            row = -row if row < 0 else 2 * (height - 1) - row if row >= height else row
            column = -column if column < 0 else 2 * (width - 1) - column if column >= width else column
        if 0 <= row < height and 0 <= column < width:
            result[c, y, x] = image[c, row, column]
    return result


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_each_image_is_one_of_the_moves_and_every_move_occurs(mode, flip):
    shift, count = 2, 1500
    image = np.random.default_rng(1).permutation(np.arange(1, 61, dtype=np.uint8)).reshape(2, 5, 6)
    span, mirrors = range(-shift, shift + 1), (False, True) if flip else (False,)
    moves = {moved(image, *move, mode).tobytes(): 0 for move in itertools.product(span, span, mirrors)}
    assert len(moves) == (2 * shift + 1) ** 2 * len(mirrors)
    images = torch.from_numpy(image).repeat(count, 1, 1, 1)
    for result in data.augment(images, generator(), shift, flip, mode).numpy():
        moves[result.tobytes()] += 1  # a KeyError here is a result that is no move at all
    expected = count / len(moves)
    chi_square = sum((seen - expected) ** 2 / expected for seen in moves.values())
    assert min(moves.values()) > 0
    assert chi_square < len(moves) + 5 * (2 * len(moves)) ** 0.5


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_batch_of_different_images_keeps_each_in_its_place(mode):
    images = torch.randint(1, 256, (40, 3, 7, 5), dtype=torch.uint8, generator=generator(3))
    results = data.augment(images, generator(), 2, mode=mode).numpy()
    span = range(-2, 3)
    for image, result in zip(images.numpy(), results, strict=True):
        candidates = (moved(image, *m, mode) for m in itertools.product(span, span, (False, True)))
        assert any(np.array_equal(result, candidate) for candidate in candidates)


def test_zeros_fill_even_where_the_images_are_not_finite():
    result = data.augment(torch.full((50, 1, 4, 4), torch.inf), generator(), shift=3)
    assert not result.isnan().any()
    assert (result == 0).any()


def test_a_shift_beyond_the_image_leaves_zeros_or_a_part():
    images = torch.ones(400, 1, 3, 3, dtype=torch.uint8)
    sums = set(data.augment(images, generator(), shift=5).sum((1, 2, 3)).tolist())
    assert sums == {0, 1, 2, 3, 4, 6, 9}


def test_augment_is_determined_by_the_generator_and_leaves_the_rest_alone():
    images = torch.rand(32, 3, 8, 8, generator=generator(5))
    before, state = images.clone(), torch.random.get_rng_state()
    first, again = (data.augment(images, generator(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, data.augment(images, generator(8)))
    one = generator(7)
    assert not torch.equal(data.augment(images, one), data.augment(images, one))
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_flip_leaves_the_shifts_of_this_and_later_batches_unchanged():
    images = torch.rand(16, 1, 8, 8, generator=generator(5))
    symmetric = images + images.flip(3)  # mirroring first changes nothing
    with_flip, without = generator(1), generator(1)
    for _ in range(2):
        results = data.augment(symmetric, with_flip, flip=True), data.augment(symmetric, without, flip=False)
        assert torch.equal(*results)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_shift_0_without_flip_is_the_identity_and_with_flip_mirrors_half(mode):
    images = torch.rand(400, 2, 5, 6, generator=generator(2))
    assert torch.equal(data.augment(images, generator(), shift=0, flip=False, mode=mode), images)
    flipped = data.augment(images, generator(), shift=0, flip=True, mode=mode)
    same, mirror = ((flipped == m).flatten(1).all(1) for m in (images, images.flip(3)))
    assert torch.equal(same, ~mirror)
    assert 150 < int(mirror.sum()) < 250


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_augment_keeps_dtype_shape_and_draws_the_same_for_all(dtype):
    images = torch.randint(0, 256, (9, 2, 5, 6), dtype=torch.uint8, generator=generator(4))
    result = data.augment(images.to(dtype), generator(), 2)
    assert kind(result) == (tuple(images.shape), dtype)
    assert torch.equal(result, data.augment(images, generator(), 2).to(dtype))


def test_augment_takes_any_memory_layout_and_an_empty_batch():
    images = torch.rand(6, 3, 8, 5, generator=generator(1))
    expected = data.augment(images, generator(), mode="reflect")
    other = images.to(memory_format=torch.channels_last)
    assert torch.equal(data.augment(other, generator(), mode="reflect"), expected)
    assert data.augment(images[:0], generator()).shape == (0, 3, 8, 5)


LAYOUTS = {"plain": torch.contiguous_format, "last": torch.channels_last}


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "shift"), [(1, 0), (3, 4), (4, 1)])
def test_the_quick_path_and_the_one_with_gradients_agree(mode, layout, channels, shift):
    images = torch.rand(33, channels, 6, 5, generator=generator(1)).contiguous(memory_format=LAYOUTS[layout])
    quick, watched = data.augment(images, generator(2), shift, mode=mode), images.clone().requires_grad_()
    slow = data.augment(watched, generator(2), shift, mode=mode)
    assert torch.equal(quick, slow)
    assert quick.stride() == slow.stride() == images.stride()
    assert torch.autograd.grad(slow.square().sum(), watched)[0].sum() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_standardize_is_each_channel_less_its_mean_over_its_deviation(layout):
    images = torch.randint(0, 256, (5, 3, 6, 4), dtype=torch.uint8, generator=generator(1))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    before = images.clone()
    result = data.normalize(images.contiguous(memory_format=LAYOUTS[layout]), mean, std)
    reference = (images.double() / 255 - mean.double().view(3, 1, 1)) / std.double().view(3, 1, 1)
    torch.testing.assert_close(result.double(), reference, rtol=0, atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_augment_follows_the_device_of_the_images_and_draws_on_the_generators():
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=generator(4))
    there = torch.Generator("cuda").manual_seed(0)
    for draws in (generator, there.manual_seed):  # each returns its generator, seeded by its argument
        here, far = data.augment(images, draws(0)), data.augment(images.cuda(), draws(0))
        assert (here.is_cuda, far.is_cuda) == (False, True)
        assert torch.equal(here, far.cpu())
    statistics = zip(data.channel_statistics(images), data.channel_statistics(images.cuda()), strict=True)
    assert all(far.is_cuda and torch.equal(here, far.cpu()) for here, far in statistics)


@pytest.mark.parametrize(
    ("shape", "choices", "words"),
    [
        ((1, 4, 6), {}, r"shape \(1, 4, 6\): pass a batch \(B, C, H, W\)"),
        ((2, 1, 4, 6), {"shift": -1}, "shift is -1: pass 0 or more"),
        ((2, 1, 4, 6), {"shift": 4, "mode": "reflect"}, r"shift is 4: pass 0\.\.3 pixels for 4x6 images"),
        ((2, 1, 4, 6), {"mode": "mirror"}, "unknown mode 'mirror': known are zeros, reflect"),
    ],
)
def test_augment_refuses_what_it_cannot_do(shape, choices, words):
    with pytest.raises(ValueError, match=words):
        data.augment(torch.zeros(shape), generator(), **choices)


def test_to_unit_is_the_value_over_255():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    unit = data.to_unit(values)
    assert kind(unit) == ((1, 1, 16, 16), torch.float32)
    assert unit.flatten().tolist() == [float(np.float32(v) / np.float32(255)) for v in range(256)]


def test_channel_statistics_agree_with_numpy_in_float64():
    images = torch.randint(0, 256, (30, 3, 9, 7), dtype=torch.uint8, generator=generator(6))
    images[:, 1] //= 3
    mean, std = data.channel_statistics(images)
    reference = images.numpy().astype(np.float64) / 255
    assert kind(mean) == kind(std) == ((3,), torch.float32)
    np.testing.assert_allclose(mean.numpy(), reference.mean((0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(std.numpy(), reference.std((0, 2, 3)), rtol=1e-7)


def test_channel_statistics_of_a_constant_channel_are_exact():
    mean, std = data.channel_statistics(torch.full((3, 2, 5, 5), 51, dtype=torch.uint8))
    assert torch.stack([mean, std]).tolist() == [[float(np.float32(0.2))] * 2, [0.0, 0.0]]


def test_floats_in_0_1_are_on_the_scale_of_bytes():
    images = torch.randint(256, (1500, 2, 3, 3), generator=torch.Generator().manual_seed(0)).byte()
    floats = images.float() / 255
    for one, other in zip(data.channel_statistics(images), data.channel_statistics(floats), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    mean, std = data.channel_statistics(images)
    assert torch.equal(data.normalize(images, mean, std), data.normalize(floats, mean, std))
    assert torch.equal(floats, images.float() / 255)


def test_scales_refuse_what_has_no_known_scale():
    floats, flat, empty = torch.zeros(1, 1, 2, 2), torch.zeros(2, 2).byte(), torch.zeros(0, 3, 2, 2).byte()
    assert "images are torch.float32: pass uint8" in refusal(TypeError, data.to_unit, floats)
    assert "images are torch.float64: pass uint8" in refusal(TypeError, data.channel_statistics, floats.double())
    assert "pass a batch" in refusal(ValueError, data.channel_statistics, flat)
    assert "hold no pixels" in refusal(ValueError, data.channel_statistics, empty)
