"""Every form in which CIFAR-10, CIFAR-100 and SVHN are handed out: the same tensors, and damage refused by name."""

import io
import os
import pickle
import shutil
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import data_miniatures as mini
import numpy as np
import pytest
import torch

from pursuitnet import data
from pursuitnet.data import cifar, files, svhn
from pursuitnet.data.download import File


def cifar10(root):
    """Both folders of CIFAR-10; the samples of each file."""
    parts = [mini.samples(seed, 6, 10) for seed in range(6)]
    for k, (images, labels) in enumerate(parts):
        name = f"data_batch_{k + 1}" if k < 5 else "test_batch"
        mini.write(root / "cifar-10-batches-bin" / f"{name}.bin", mini.records(images, labels))
        mini.write(root / "cifar-10-batches-py" / name, mini.pickled(images, labels, "labels", old=k % 2 == 0))
    return {"train": parts[:5], "test": parts[5:]}


def cifar100(root):
    parts = {"train": mini.samples(1, 200, 100), "test": mini.samples(2, 100, 100)}
    for name, (images, labels) in parts.items():
        coarse = labels // 5
        mini.write(root / "cifar-100-binary" / f"{name}.bin", mini.records(images, labels, coarse))
        mini.write(root / "cifar-100-python" / name, mini.pickled(images, labels, "fine_labels"))
    return {split: [part] for split, part in parts.items()}


def svhns(root):
    parts = {"train": mini.samples(3, 20, 10), "test": mini.samples(4, 12, 10)}
    mini.write(root / "train_32x32.mat", mini.matlab(*parts["train"]))
    mini.write(root / "test_32x32.mat", mini.matlab(*parts["test"], compressed=True))
    return {split: [part] for split, part in parts.items()}


LAYOUTS = {
    "cifar10 binary": ("cifar10", cifar10, cifar.CIFAR10_BINARY),
    "cifar10 python": ("cifar10", cifar10, cifar.CIFAR10_PYTHON),
    "cifar100 binary": ("cifar100", cifar100, cifar.CIFAR100_BINARY),
    "cifar100 python": ("cifar100", cifar100, cifar.CIFAR100_PYTHON),
    "svhn": ("svhn", svhns, svhn.SVHN.layouts[0]),
}


@pytest.fixture(params=LAYOUTS)
def case(request, tmp_path, monkeypatch):
    """(name, folder of the files, what they hold, layout with their checksums), and no other layout beside it."""
    name, make, layout = LAYOUTS[request.param]
    parts = make(tmp_path)
    folder = tmp_path / layout.folder
    layout = mini.sealed(layout, folder)
    mini.install(monkeypatch, name, layout)
    return name, folder, parts, layout


def assert_same(found, expected):
    assert [part.dtype for part in found] == [torch.uint8, torch.int64]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("split", data.SPLITS)
def test_each_layout_holds_the_same_tensors_in_the_original_order(case, split):
    name, folder, parts, layout = case
    for root in (folder, folder.parent) if layout.folder else (folder,):
        assert_same(data.load(name, root, split), mini.tensors(*parts[split]))


@pytest.mark.parametrize("case", [key for key in LAYOUTS if key != "svhn"], indirect=True)  # which has no archive
@pytest.mark.parametrize("split", data.SPLITS)
def test_an_archive_is_read_as_it_is(case, split, tmp_path, monkeypatch):
    name, folder, parts, layout = case
    path = tmp_path / "packed" / layout.archive.name
    path.parent.mkdir()
    content = mini.packed(folder, path)
    mini.install(
        monkeypatch,
        name,
        replace(layout, archive=replace(layout.archive, checksum=mini.md5(content), size=len(content))),
    )
    for root in (path, path.parent):
        assert_same(data.load(name, root, split), mini.tensors(*parts[split]))
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_what_is_whole_is_read_before_what_is_begun(tmp_path, monkeypatch):
    parts = cifar10(tmp_path)
    layouts = [mini.sealed(x, tmp_path / x.folder) for x in (cifar.CIFAR10_BINARY, cifar.CIFAR10_PYTHON)]
    mini.install(monkeypatch, "cifar10", *layouts)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin").unlink()
    assert_same(data.load("cifar10", tmp_path), mini.tensors(*parts["train"]))
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-bin.data_batch_2\.bin is missing"):
        data.load("cifar10", tmp_path)


def altered(content, seed):
    """Content with one byte at a random place made another."""
    rng = np.random.default_rng(seed)
    result = bytearray(content)
    result[rng.integers(len(content))] ^= int(rng.integers(1, 256))
    return bytes(result)


@pytest.mark.parametrize("case", [key for key in LAYOUTS if key != "cifar100 binary"], indirect=True)  # no checksums
@pytest.mark.parametrize("seed", range(4))
def test_one_altered_byte_anywhere_in_any_file_is_refused_by_name_before_it_is_decoded(case, seed, monkeypatch):
    name, folder, _, layout = case
    sound = [(folder / file.name).read_bytes() for names in layout.files.values() for file in names]

    def decode(content):  # what reads MATLAB's files can end the process at an altered one
        if bytes(content) not in sound:
            pytest.fail("altered content is decoded before its checksum is looked at")
        return layout.decode(content)

    mini.install(monkeypatch, name, replace(layout, decode=decode))
    for split, names in layout.files.items():
        for file in names:
            path = folder / file.name
            content = path.read_bytes()
            path.write_bytes(altered(content, seed))
            with pytest.raises(ValueError, match=f"{path.name} is altered or damaged; replace it by the original"):
                data.load(name, folder, split)
            path.write_bytes(content)


@pytest.mark.parametrize("layout", [cifar.CIFAR10_PYTHON, cifar.CIFAR100_PYTHON, *svhn.SVHN.layouts])
def test_every_file_that_is_not_read_by_ourselves_has_a_checksum(layout):
    assert all(file.checksum for names in layout.files.values() for file in names)


@pytest.mark.parametrize("seed", range(4))
def test_an_altered_or_cut_archive_is_refused_by_name(tmp_path, monkeypatch, seed):
    cifar100(tmp_path)
    layout = mini.sealed(cifar.CIFAR100_BINARY, tmp_path / "cifar-100-binary")
    path = tmp_path / "packed" / layout.archive.name
    path.parent.mkdir()
    content = mini.packed(tmp_path / layout.folder, path)
    known = replace(layout, archive=replace(layout.archive, checksum=mini.md5(content), size=len(content)))
    unknown = replace(layout, archive=replace(layout.archive, checksum=None, size=None))
    cut = content[: np.random.default_rng(seed).integers(len(content))]
    for layouts, damaged in ((known, altered(content, seed)), (known, cut), (unknown, cut)):
        mini.install(monkeypatch, "cifar100", layouts)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path.name} .*; replace it by the original"):
            data.load("cifar100", path.parent)


@pytest.mark.parametrize("split", data.SPLITS)
def test_a_cut_file_is_refused_by_name(case, split):
    name, folder, _, layout = case
    path = folder / layout.files[split][-1].name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path.name} .*replace it by the original"):
        data.load(name, folder, split)


def test_cifar100_binary_without_checksums_is_checked_by_its_labels(tmp_path, monkeypatch):
    cifar100(tmp_path)
    folder = tmp_path / "cifar-100-binary"
    mini.install(monkeypatch, "cifar100", mini.sealed(cifar.CIFAR100_BINARY, folder))
    good = (folder / "test.bin").read_bytes()
    for place, value, words in (
        (3074 * 3, 20, r"test\.bin cannot be read \(it has coarse label 20, expected 0\.\.19\)"),
        (3074 * 3 + 1, 100, r"test\.bin has label 100, expected 0\.\.99"),
        (3074 * 3 + 1, (good[3074 * 3 + 1] + 1) % 100, "0 to 2 images per class in the test files"),
    ):
        content = bytearray(good)
        content[place] = value
        mini.write(folder / "test.bin", bytes(content))
        with pytest.raises(ValueError, match=words):
            data.load("cifar100", tmp_path, "test")


def test_the_official_files_have_the_sizes_and_numbers_that_are_published():
    sizes = {
        file.name: file.size for file in cifar.CIFAR100_BINARY.files["train"] + cifar.CIFAR100_BINARY.files["test"]
    }
    assert sizes == {"train.bin": 153_700_000, "test.bin": 30_740_000}
    for name, classes in (("cifar10", 10), ("cifar100", 100), ("svhn", 10)):
        about = data.info(name)
        assert about.num_classes == len(set(about.classes)) == about.read.num_classes == classes
        fetched = [file for split in data.SPLITS for file in about.read.layouts[0].downloads(split)]
        assert all(file.url.endswith(f"/{file.name}") and len(file.checksum) == 4 + 32 for file in fetched)
    classes = data.info("cifar100").classes
    assert list(classes) == sorted(classes)
    assert (classes[0], classes[52], classes[-1]) == ("apple", "oak_tree", "worm")


class Evil:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    ("evil", "words"),
    [
        (Evil(os.mkdir, "pwned"), "it asks for (posix|nt).mkdir, which no array needs"),
        (Evil(eval, "1"), "it asks for (builtins|__builtin__).eval"),
        (Evil(np.load, "x"), r"it asks for numpy\.load"),
        (Evil(warnings.warn, "x"), "it asks for _?warnings.warn"),
        (Evil(__import__("_codecs").encode, "x", "rot13"), "it asks for the encoding 'rot13'"),
        ([1], "it holds a list, expected a dict"),
        ({"labels": [1]}, "it holds no 'data'"),
        ({"data": np.zeros((2, 3072)), "labels": [1, 1]}, r"its data are not uint8 \(2, 3072\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 1, 1]}, r"its data are not uint8 \(3, 3072\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}, "has label 10, expected 0..9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, -1]}, "has label -1, expected 0..9"),
    ],
)
def test_a_pickle_executes_nothing_and_holds_what_it_should(tmp_path, monkeypatch, evil, words):
    cifar10(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    mini.write(folder / "test_batch", pickle.dumps(evil, protocol=2))
    mini.install(monkeypatch, "cifar10", mini.sealed(cifar.CIFAR10_PYTHON, folder))  # even under a right checksum
    with pytest.raises(ValueError, match=f"test_batch .*{words}.*; replace it by the original"):
        data.load("cifar10", tmp_path, "test")
    assert not (tmp_path / "pwned").exists()


def test_svhn_zero_is_refused_and_ten_is_zero(tmp_path, monkeypatch):
    images, labels = mini.samples(0, 10, 10)
    content = mini.matlab(images, labels)
    assert sorted(svhn.decode(bytearray(content))[1].tolist()) == list(range(10))
    with pytest.raises(ValueError, match=r"label 0, expected 1\.\.10"):
        svhn.decode(bytearray(mini.matlab(images, np.full(10, 0) + 256)))  # 256 is 0 in a byte
    with pytest.raises(ValueError, match=r"X is torch.uint8 \(32, 32, 3, 9\)"):
        svhn.decode(bytearray(mini.matlab(images[:9], labels)))


def packed_member(kind, link="", content=b"abc"):
    """A tar.gz with one member called f."""
    made, member = io.BytesIO(), tarfile.TarInfo("f")
    member.type, member.linkname = kind, link
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.addfile(member, io.BytesIO(content))
    return bytearray(made.getvalue())


def test_links_in_an_archive_are_no_files_and_a_member_that_is_too_large_is_not_unpacked(monkeypatch):
    for kind, link in (
        (tarfile.SYMTYPE, "nowhere"),
        (tarfile.LNKTYPE, "f"),
        (tarfile.SYMTYPE, "f"),
        (tarfile.DIRTYPE, ""),
    ):
        assert files._members(packed_member(kind, link), Path("p.tar.gz"), {"f": None}) == {}
    content = packed_member(tarfile.REGTYPE)
    assert files._members(content, Path("p.tar.gz"), {"f": 3}) == {"f": b"abc"}
    with pytest.raises(ValueError, match=r"p\.tar\.gz cannot be unpacked \(f has 3 bytes, more than"):
        files._members(content, Path("p.tar.gz"), {"f": 2})
    monkeypatch.setattr(files, "MOST", 2)
    with pytest.raises(ValueError, match="more than"):
        files._members(content, Path("p.tar.gz"), {"f": None})


def test_a_pickle_without_one_label_an_image_is_refused(tmp_path):
    content = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [[1]]})
    layout = files.Layout({"train": (File("f"),)}, cifar.Pickled(b"labels"))
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match="f does not have one label per image"):
        files.Originals("x", 10, (layout,), "page")._read(layout, tmp_path, "train")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("linkname"), "KeyError: 'linkname'"),
        (RecursionError("x"), "nested too deeply"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_whatever_an_archive_or_a_decoder_raises_names_the_file(error, said, monkeypatch, tmp_path):
    def fail(*given, **options):
        raise error

    monkeypatch.setattr(tarfile, "open", fail)
    with pytest.raises(ValueError, match=rf"p\.tar\.gz cannot be unpacked \(.*{said}"):
        files._members(bytearray(), Path("p.tar.gz"), {"f": None})
    layout = files.Layout({"train": (File("f"),)}, fail)
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"f cannot be read \(.*{said}"):
        files.Originals("x", 10, (layout,), "page")._read(layout, tmp_path, "train")


def test_members_are_found_wherever_they_lie_in_an_archive(tmp_path, monkeypatch):
    cifar100(tmp_path)
    shutil.move(tmp_path / "cifar-100-binary", tmp_path / "renamed")
    content = mini.packed(tmp_path / "renamed", tmp_path / "some.tar.gz")
    found = files._members(bytearray(content), tmp_path, {"test.bin": None, "nothing": None})
    assert list(found) == ["test.bin"]
    layout = replace(cifar.CIFAR100_PYTHON, archive=replace(cifar.CIFAR100_PYTHON.archive, checksum=None, size=None))
    mini.install(monkeypatch, "cifar100", layout)
    mini.write(tmp_path / "own" / layout.archive.name, content)
    with pytest.raises(ValueError, match=rf"{layout.archive.name} does not contain train; replace it by the original"):
        data.load("cifar100", tmp_path / "own")
