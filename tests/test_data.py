"""Data sets against their sources byte by byte, errors by their words, augmentation against a plain loop."""

import hashlib
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pursuitnet import data

FOLDER = "cifar-10-batches-bin"
TRAIN = [f"data_batch_{k}.bin" for k in range(1, 6)]
FILES = [*TRAIN, "test_batch.bin"]
RECORDS = 7


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kind(tensor):
    return tuple(tensor.shape), tensor.dtype


def split_of(name):
    return "test" if name.startswith("test") else "train"


def refusal(error, function, *arguments):
    """The words with which a call is refused."""
    with pytest.raises(error) as caught:
        function(*arguments)
    return str(caught.value)


def write(folder, name, content, monkeypatch=None):
    """Write one file; with `monkeypatch`, make its content the official one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    if monkeypatch is not None:
        monkeypatch.setitem(data._CIFAR10_SHA256, name, hashlib.sha256(content).hexdigest())


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    """A CIFAR-10 of seven records a file, each byte random: (root, {file: [(label, [3072 bytes]), ...]})."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(data, "_CIFAR10_RECORDS", RECORDS)
    written = {}
    for name in FILES:
        pixels = rng.integers(256, size=(RECORDS, 3072)).tolist()
        written[name] = list(zip(rng.integers(10, size=RECORDS).tolist(), pixels, strict=True))
        content = b"".join(bytes([label, *pixels]) for label, pixels in written[name])
        write(tmp_path / FOLDER, name, content, monkeypatch)
    return tmp_path, written


def test_digits_shapes_types_and_sizes():
    for split, count in (("train", 1437), ("test", 360)):
        images, labels = data.load("digits", split=split)
        assert kind(images) == ((count, 1, 8, 8), torch.uint8)
        assert kind(labels) == ((count,), torch.int64)
        assert images.is_contiguous()
        assert set(labels.tolist()) == set(range(10))
    assert len(data.load("digits")[1]) == 1437


def test_digits_splits_interleave_to_the_whole_of_sklearn():
    from sklearn.datasets import load_digits

    source = load_digits()
    train, test = (zip(*data.load("digits", split=split), strict=True) for split in ("train", "test"))
    for index in range(1797):  # every scan occurs in exactly one split, in its original order
        image, label = next(test if index % 5 == 0 else train)
        expected = [[round(float(v) * 255 / 16) for v in row] for row in source.images[index]]
        assert image[0].tolist() == expected
        assert int(label) == source.target[index]
    assert next(train, None) is None
    assert next(test, None) is None


def test_digits_without_sklearn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        data.load("digits")


@pytest.mark.parametrize(("split", "names"), [("train", TRAIN), ("test", ["test_batch.bin"])])
def test_cifar10_is_parsed_byte_for_byte(miniature, split, names):
    root, written = miniature
    images, labels = data.load("cifar10", root, split)
    records = [record for name in names for record in written[name]]
    assert kind(images) == ((len(records), 3, 32, 32), torch.uint8)
    assert kind(labels) == ((len(records),), torch.int64)
    assert labels.tolist() == [label for label, _ in records]
    assert images.is_contiguous()
    for image, (_, pixels) in zip(images.numpy(), records, strict=True):
        for c, y, x in itertools.product(range(3), range(32), range(32)):
            assert image[c, y, x] == pixels[1024 * c + 32 * y + x]


def test_cifar10_root_is_the_parent_or_the_folder_itself_by_any_name(miniature, monkeypatch):
    root, _ = miniature
    expected = data.load("cifar10", root, "test")[0]
    assert torch.equal(data.load("cifar10", root / FOLDER, "test")[0], expected)
    assert torch.equal(data.load("cifar10", str(root), "test")[0], expected)
    monkeypatch.setenv("HOME", str(root))
    assert torch.equal(data.load("cifar10", "~", "test")[0], expected)
    (root / FOLDER).rename(root / "renamed")
    assert torch.equal(data.load("cifar10", root / "renamed", "test")[0], expected)


def test_cifar10_test_split_reads_the_test_file_only(miniature):
    root, _ = miniature
    for name in TRAIN:
        (root / FOLDER / name).unlink()
    assert len(data.load("cifar10", root, "test")[1]) == RECORDS


@pytest.mark.parametrize("name", FILES)
def test_cifar10_missing_file_is_named(miniature, name):
    root, _ = miniature
    path = root / FOLDER / name
    path.unlink()
    for given in (root, root / FOLDER):
        message = refusal(FileNotFoundError, data.load, "cifar10", given, split_of(name))
        for words in (str(path), "unpack", f"root (--data-dir) is the folder that holds {FOLDER}"):
            assert words in message


def test_cifar10_empty_and_missing_folder_name_the_file_expected(tmp_path):
    (tmp_path / "empty" / FOLDER).mkdir(parents=True)
    (tmp_path / "archive.tar.gz").write_bytes(b"")
    for name in ("", "empty", "nowhere", "archive.tar.gz"):
        path = tmp_path / name / FOLDER / "data_batch_1.bin"
        for root in (tmp_path / name, path.parent):
            message = refusal(FileNotFoundError, data.load, "cifar10", root)
            assert message.startswith(f"{path} is missing")


@pytest.mark.parametrize("size", [0, (RECORDS - 1) * 3073, RECORDS * 3073 - 1, RECORDS * 3073 + 1])
def test_cifar10_wrong_size_names_file_and_both_sizes(miniature, size):
    root, _ = miniature
    path = root / FOLDER / "data_batch_3.bin"
    path.write_bytes((path.read_bytes() + b"\0")[:size])
    message = refusal(ValueError, data.load, "cifar10", root)
    assert message.startswith(f"{path} has {size} bytes, expected {RECORDS * 3073}")


@pytest.mark.parametrize("position", [0, 1, RECORDS * 3073 - 1])
@pytest.mark.parametrize("name", FILES)
def test_cifar10_one_altered_byte_is_refused_by_name(miniature, name, position):
    root, _ = miniature
    path = root / FOLDER / name
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    message = refusal(ValueError, data.load, "cifar10", root, split_of(name))
    assert message.startswith(f"{path} is altered or damaged; replace it by the original")


@pytest.mark.parametrize("label", [10, 128, 255])
def test_cifar10_wrong_label_is_refused_even_under_a_matching_hash(miniature, label, monkeypatch):
    root, _ = miniature
    content = bytearray((root / FOLDER / "data_batch_5.bin").read_bytes())
    content[3073 * 4] = label
    write(root / FOLDER, "data_batch_5.bin", bytes(content), monkeypatch)
    message = refusal(ValueError, data.load, "cifar10", root)
    assert message.startswith(f"{root / FOLDER / 'data_batch_5.bin'} has label {label}, expected 0..9")


def test_cifar10_of_the_right_size_but_not_the_original_is_refused(tmp_path):
    path = tmp_path / FOLDER / "test_batch.bin"
    write(path.parent, path.name, bytes(30_730_000))
    message = refusal(ValueError, data.load, "cifar10", tmp_path, "test")
    assert message.startswith(f"{path} is altered or damaged")


def test_cifar10_without_root_says_to_pass_it():
    words = f"pass root (--data-dir), the folder that holds {FOLDER}"
    assert words in refusal(ValueError, data.load, "cifar10")


@pytest.fixture(scope="module")
def real_root():
    root = os.environ.get("PURSUITNET_CIFAR10")
    if not root:
        pytest.skip("PURSUITNET_CIFAR10 does not name the folder of the CIFAR-10 binary files")
    return Path(root)


@pytest.mark.parametrize(("split", "each"), [("train", 5000), ("test", 1000)])
def test_real_cifar10_is_balanced_and_matches_its_file(real_root, split, each):
    images, labels = data.load("cifar10", real_root, split)
    assert kind(images) == ((10 * each, 3, 32, 32), torch.uint8)
    assert labels.bincount().tolist() == [each] * 10
    name = "data_batch_5.bin" if split == "train" else "test_batch.bin"
    folder = real_root / FOLDER if (real_root / FOLDER).is_dir() else real_root
    record = (folder / name).read_bytes()[-3073:]
    assert int(labels[-1]) == record[0]
    assert images[-1].flatten().tolist() == list(record[1:])


def test_real_cifar10_statistics_are_the_published_ones(real_root):
    mean, std = data.channel_statistics(data.load("cifar10", real_root)[0])
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.2470, 0.2435, 0.2616]), atol=5e-5, rtol=0)


KNOWN = ", ".join(data.DATASETS)


@pytest.mark.parametrize("name", ["cifar-10", "CIFAR10", "cifar_10"])
@pytest.mark.parametrize("ask", [data.load, data.info])
def test_unknown_name_lists_the_known_and_suggests(ask, name):
    message = refusal(ValueError, ask, name)
    assert message == f"unknown data set {name!r}: known are {KNOWN}; did you mean 'cifar10'?"


def test_unknown_name_close_to_nothing_has_no_suggestion():
    message = refusal(ValueError, data.load, "?")
    assert message == f"unknown data set '?': known are {KNOWN}"


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_unknown_split_lists_the_known_and_suggests(name):
    message = refusal(ValueError, data.load, name, None, "Training")
    assert message == "unknown split 'Training': known are train, test; did you mean 'train'?"


def test_info_describes_what_load_returns(miniature):
    root, _ = miniature
    for name in ("digits", "cifar10"):
        about, (images, labels) = data.info(name), data.load(name, root)
        assert images.shape[1:] == (about.in_chans, *about.image_size)
        assert about.num_classes == len(about.classes) == 10
        assert labels.max() < about.num_classes
    assert data.info("digits").classes == tuple(str(k) for k in range(10))
    assert " ".join(data.info("cifar10").classes) == "airplane automobile bird cat deer dog frog horse ship truck"


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device here")
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


def test_scales_refuse_what_has_no_known_scale():
    floats, flat, empty = torch.zeros(1, 1, 2, 2), torch.zeros(2, 2).byte(), torch.zeros(0, 3, 2, 2).byte()
    assert "images are torch.float32: pass uint8" in refusal(TypeError, data.to_unit, floats)
    assert "images are torch.float32: pass uint8" in refusal(TypeError, data.channel_statistics, floats)
    assert "pass a batch" in refusal(ValueError, data.channel_statistics, flat)
    assert "hold no pixels" in refusal(ValueError, data.channel_statistics, empty)
