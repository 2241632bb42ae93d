"""Data sets against their sources byte by byte, errors by their words."""

import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_miniatures import install, sealed, write

from pursuitnet import data
from pursuitnet.data import cifar

FOLDER = "cifar-10-batches-bin"
TRAIN = [f"data_batch_{k}.bin" for k in range(1, 6)]
FILES = [*TRAIN, "test_batch.bin"]
RECORDS = 7


def kind(tensor):
    return tuple(tensor.shape), tensor.dtype


def split_of(name):
    return "test" if name.startswith("test") else "train"


def refusal(error, function, *arguments):
    """The words with which a call is refused."""
    with pytest.raises(error) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    """A CIFAR-10 of seven records a file, each byte random: (root, {file: [(label, [3072 bytes]), ...]})."""
    rng = np.random.default_rng(0)
    written = {}
    for name in FILES:
        pixels = rng.integers(256, size=(RECORDS, 3072)).tolist()
        written[name] = list(zip(rng.integers(10, size=RECORDS).tolist(), pixels, strict=True))
        content = b"".join(bytes([label, *pixels]) for label, pixels in written[name])
        write(tmp_path / FOLDER / name, content)
    install(monkeypatch, "cifar10", sealed(cifar.CIFAR10_BINARY, tmp_path / FOLDER))
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
        for words in (str(path), "unpack", f"root (--data-dir) is the folder that contains {FOLDER}"):
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
    write(root / FOLDER / "data_batch_5.bin", bytes(content))
    install(monkeypatch, "cifar10", sealed(cifar.CIFAR10_BINARY, root / FOLDER))
    message = refusal(ValueError, data.load, "cifar10", root)
    assert message.startswith(f"{root / FOLDER / 'data_batch_5.bin'} has label {label}, expected 0..9")


def test_cifar10_of_the_right_size_but_not_the_original_is_refused(tmp_path):
    path = tmp_path / FOLDER / "test_batch.bin"
    write(path, bytes(30_730_000))
    message = refusal(ValueError, data.load, "cifar10", tmp_path, "test")
    assert message.startswith(f"{path} is altered or damaged")


def test_cifar10_without_root_says_to_pass_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PURSUITNET_CACHE", str(tmp_path))
    words = f"pass root (--data-dir), the folder that contains {FOLDER}"
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


KNOWN = ", ".join(data.NAMES)


@pytest.mark.parametrize("name", ["cifar-10", "CIFAR10", "cifar_10"])
@pytest.mark.parametrize("ask", [data.load, data.info])
def test_unknown_name_lists_the_known_and_suggests(ask, name):
    message = refusal(ValueError, ask, name)
    assert message == f"unknown data set {name!r}: known are {KNOWN}; did you mean cifar10?"


def test_unknown_name_close_to_nothing_has_no_suggestion():
    message = refusal(ValueError, data.load, "?")
    assert message == f"unknown data set '?': known are {KNOWN}"


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_unknown_split_lists_the_known_and_suggests(name):
    message = refusal(ValueError, data.load, name, None, "Training")
    assert message == "unknown split 'Training': known are train, test; did you mean train?"


def test_info_describes_what_load_returns(miniature):
    root, _ = miniature
    for name in ("digits", "cifar10"):
        about, (images, labels) = data.info(name), data.load(name, root)
        assert images.shape[1:] == (about.in_chans, *about.image_size)
        assert about.num_classes == len(about.classes) == 10
        assert labels.max() < about.num_classes
    assert data.info("digits").classes == tuple(str(k) for k in range(10))
    assert " ".join(data.info("cifar10").classes) == "airplane automobile bird cat deer dog frog horse ship truck"


def test_real_cifar10_class_names_are_those_that_come_with_it(real_root):
    folder = real_root / FOLDER if (real_root / FOLDER).is_dir() else real_root
    assert tuple((folder / "batches.meta.txt").read_text().split()) == data.info("cifar10").classes
