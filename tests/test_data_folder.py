"""Folders of images: which files are read, how each kind of image becomes bytes, what is said of those that cannot."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pursuitnet import data


def pixels(seed, height=6, width=5, channels=3):
    shape = (height, width, channels)[: 2 if channels == 1 else 3]
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def put(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)


def load(root, split="train", **choices):
    return data.load("folder", root, split, **choices)


@pytest.fixture
def flat(tmp_path):
    """Classes b and a with 7 and 3 images, whose first pixels number them."""
    for name, count in (("b", 7), ("a", 3)):
        for k in range(count):
            array = pixels(k)
            array[0, 0] = (ord(name), k, 0)
            put(tmp_path / "set" / name / f"{k:02}.png", array)
    return tmp_path / "set"


def numbers(found):
    images, labels = found
    return [(chr(red), k, label) for (red, k), label in zip(images[:, :2, 0, 0].tolist(), labels.tolist(), strict=True)]


def test_a_flat_folder_gives_every_fifth_of_each_class_to_the_test(flat):
    train = [("a", 1, 0), ("a", 2, 0), *(("b", k, 1) for k in (1, 2, 3, 4, 6))]
    test = [("a", 0, 0), ("b", 0, 1), ("b", 5, 1)]
    assert numbers(load(flat)) == train
    assert numbers(load(flat, "test")) == test
    images, labels = load(flat)
    assert (images.dtype, labels.dtype, tuple(images.shape)) == (torch.uint8, torch.int64, (7, 3, 6, 5))
    expected = pixels(4)
    expected[0, 0] = (ord("b"), 4, 0)
    assert torch.equal(images[5], torch.from_numpy(expected).permute(2, 0, 1))


@pytest.mark.parametrize("tested", ["test", "val"])
def test_split_folders_are_taken_as_they_are(flat, tmp_path, tested):
    root = tmp_path / "split"
    for k, split in enumerate(("train", tested)):
        for name in "ab":
            put(root / split / name / "deeper" / "x.png", np.full((4, 4, 3), (ord(name), k, 0), np.uint8))
    (root / "train" / "a" / ".DS_Store").write_text("no image")
    (root / "notes.txt").write_text("no class")
    assert numbers(load(root)) == [("a", 0, 0), ("b", 0, 1)]
    assert numbers(load(root, "test")) == [("a", 1, 0), ("b", 1, 1)]


def test_info_says_what_load_returns_before_and_after_it(flat):
    for _ in range(2):
        about = data.info("folder", flat)
        assert (about.classes, about.in_chans, about.image_size) == (("a", "b"), 3, (6, 5))
        assert data.info("folder", str(flat), 4).image_size == (4, 4)
        load(flat)


def test_a_second_load_is_of_the_cache_and_a_changed_folder_is_not(flat, monkeypatch):
    first = load(flat)
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, original=Image.open: opened.append(path) or original(path))
    assert all(torch.equal(*pair) for pair in zip(load(flat), first, strict=True))
    assert data.info("folder", flat).image_size == (6, 5)
    assert not opened
    assert load(flat, image_size=3)[0].shape == (7, 3, 3, 3)
    put(flat / "a" / "99.png", pixels(1))
    assert len(load(flat)[1]) == 8
    assert opened


def two(root, first, second=None):
    """A folder of two classes with `first` as the only training image of class a."""
    for name in "ab":
        for k in range(2):
            put(root / name / f"{k}.png", np.zeros((6, 5), np.uint8) if second is None else second)
    path = root / "a" / "1.png"
    path.unlink()
    if callable(first):
        path = first(path)
    else:
        put(path, first)
    return path


def only(root, **choices):
    return load(root, **choices)[0][0]


def gray_levels():
    return np.arange(30, dtype=np.uint8).reshape(6, 5)


def test_all_grey_is_one_channel_and_one_colored_makes_three(tmp_path):
    two(tmp_path / "gray", gray_levels())
    assert torch.equal(only(tmp_path / "gray"), torch.arange(30).byte().reshape(1, 6, 5))
    two(tmp_path / "mixed", gray_levels(), second=pixels(0))
    assert torch.equal(only(tmp_path / "mixed"), torch.arange(30).byte().reshape(1, 6, 5).expand(3, -1, -1))


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.linspace(0, 65535, 30).astype(np.uint16).reshape(6, 5)
    two(tmp_path, values)
    expected = np.round(values / 257).astype(np.uint8)
    assert only(tmp_path)[0].tolist() == expected.tolist()


def test_black_and_white_palettes_and_transparency(tmp_path):
    black_white = Image.fromarray(gray_levels() > 14)
    two(tmp_path / "bits", black_white)
    assert only(tmp_path / "bits").flatten().tolist() == [0] * 15 + [255] * 15
    palette = Image.new("P", (5, 6), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    two(tmp_path / "palette", palette)
    assert only(tmp_path / "palette")[:, 0, 0].tolist() == [10, 20, 30]
    clear = np.dstack([np.full((6, 5, 3), 200, np.uint8), np.full((6, 5), 0, np.uint8)])
    clear[0, 0, 3] = 255
    two(tmp_path / "clear", clear)
    assert only(tmp_path / "clear")[0].flatten().tolist() == [200] + [0] * 29  # what is not seen is black
    veiled = Image.fromarray(np.dstack([gray_levels(), np.full((6, 5), 255, np.uint8)]))
    two(tmp_path / "veiled", veiled)
    assert torch.equal(only(tmp_path / "veiled"), torch.arange(30).byte().reshape(1, 6, 5))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_a_camera_notes_is_applied(tmp_path, orientation):
    upright = gray_levels()
    stored = {  # how the sensor saw it, for each value of the EXIF standard
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    two(tmp_path, lambda path: put(path, np.ascontiguousarray(stored), exif=exif) or path)
    assert data.info("folder", tmp_path).image_size == (6, 5)
    assert torch.equal(only(tmp_path), torch.from_numpy(upright)[None])


def test_image_size_scales_with_antialiasing_and_crops_the_centre(tmp_path):
    board = (np.indices((40, 80)).sum(0) % 2 * 255).astype(np.uint8)  # finer than the result can show
    board[:, :20], board[:, 60:] = 0, 255  # outside of the center
    two(tmp_path, board, second=pixels(0, 17, 23))
    image = only(tmp_path, image_size=10)
    assert image.shape == (3, 10, 10)
    assert (image[:, 2:-2, 2:-2].float() - 127.5).abs().max() < 8
    assert data.info("folder", tmp_path, (4, 12)).image_size == (4, 12)
    wide = only(tmp_path, image_size=(4, 12))
    assert wide.shape == (3, 4, 12)
    assert (wide[0, :, :2].max(), wide[0, :, -2:].min()) == (0, 255)


def test_image_size_of_the_size_they_have_changes_nothing(flat):
    assert torch.equal(load(flat, image_size=(6, 5))[0], load(flat)[0])


@pytest.mark.parametrize("size", [0, -3, (4,), (4, 0), (4, 4, 4), 2.5, "ab"])
def test_an_image_size_that_is_none_is_refused(flat, size):
    with pytest.raises(ValueError, match=r"image_size is .*: pass a number of pixels"):
        load(flat, image_size=size)


def test_image_size_is_for_folders_only_and_a_folder_needs_a_root():
    with pytest.raises(ValueError, match="those of digits are 8x8: leave it out"):
        data.load("digits", image_size=8)
    with pytest.raises(ValueError, match=r"folder needs root \(--data-dir\)"):
        data.info("folder")


def test_sizes_that_differ_are_named(flat):
    put(flat / "b" / "03.png", pixels(0, 6, 7))
    with pytest.raises(ValueError, match=r"03\.png has 6x7 pixels and .*01\.png has 6x5: pass image_size"):
        load(flat)
    assert load(flat, image_size=4)[0].shape == (7, 3, 4, 4)


def test_an_empty_class_one_class_one_image_and_no_folder_are_named(flat, tmp_path):
    (flat / "c").mkdir()
    with pytest.raises(ValueError, match=r"class .*c is empty: put images into it, or remove it"):
        load(flat)
    put(flat / "c" / "0.png", pixels(0))
    with pytest.raises(ValueError, match="c has one image: expected at least two"):
        load(flat)
    shutil.rmtree(flat / "c")
    shutil.rmtree(flat / "b")
    with pytest.raises(ValueError, match="has 1 classes: expected at least two"):
        load(flat)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")


def test_splits_of_different_classes_and_a_missing_test_are_named(tmp_path):
    for name in ("train/a", "train/b", "test/a"):
        put(tmp_path / name / "0.png", pixels(0))
    with pytest.raises(ValueError, match="class 'b' in only one of train and test"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(FileNotFoundError, match=r"neither test nor val next to it: add .*test"):
        load(tmp_path)


def text(path):
    path = path.with_suffix(".txt")
    path.write_text("no image")
    return path


def empty(path):
    path.write_bytes(b"")
    return path


def cut(path):
    put(path, pixels(0))
    path.write_bytes(path.read_bytes()[:-60])
    return path


def moving(path):
    path = path.with_suffix(".gif")
    frames = [Image.fromarray(np.full((6, 5), k, np.uint8)) for k in (0, 255)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def floating(path):
    path = path.with_suffix(".tiff")
    put(path, np.zeros((6, 5), np.float32))
    return path


def photograph(path):
    path = path.with_suffix(".HEIC")
    path.write_bytes(b"\0\0\0\x18ftypheic")
    return path


def long(path):
    path = path.with_suffix(".tiff")
    put(path, np.full((6, 5), 70_000, np.int32))
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text, "is not an image that can be read: remove it"),
        (empty, "is not an image that can be read: remove it"),
        (photograph, "is a photograph in the format HEIC, which is not read: convert it"),
        (cut, "cannot be read as an image .*repair or remove it"),
        (moving, "2 frames, expected one"),
        (floating, "floating-point numbers, whose scale is not known"),
        (long, r"its pixels are 70000\.\.70000, expected 8 or 16 bits"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, make, words):
    path = two(tmp_path, make)
    with pytest.raises(ValueError, match=f"{path.name} .*{words}"):
        load(tmp_path)


def test_an_altered_byte_in_a_png_is_refused_by_name_or_alters_no_pixel(tmp_path):
    path = two(tmp_path, pixels(0))
    content, expected, refused = path.read_bytes(), only(tmp_path), 0
    for seed in range(40):
        damaged, rng = bytearray(content), np.random.default_rng(seed)
        damaged[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            same = torch.equal(only(tmp_path), expected)
        except ValueError as error:
            same = str(path) in str(error)
            refused += 1
        assert same
    assert refused > 30


# splits and classes


@pytest.mark.parametrize("train", ["Train", "training", "TRAINING"])
@pytest.mark.parametrize("tested", ["Test", "testing", "Val", "valid", "Validation", "eval"])
def test_splits_are_found_in_any_case_and_usual_spelling(tmp_path, train, tested):
    for k, split in enumerate((train, tested)):
        for name in ("cats", "dogs"):
            put(tmp_path / split / name / "0.png", np.full((2, 2), 10 * k + ord(name[0]), np.uint8))
    assert data.info("folder", tmp_path).classes == ("cats", "dogs")
    assert load(tmp_path)[0][:, 0, 0, 0].tolist() == [ord("c"), ord("d")]
    assert load(tmp_path, "test")[0][:, 0, 0, 0].tolist() == [10 + ord("c"), 10 + ord("d")]


def test_with_test_and_val_the_test_is_tested_on_and_other_folders_are_no_classes(tmp_path):
    for k, split in enumerate(("train", "val", "test", "docs")):
        for name in "ab":
            put(tmp_path / split / name / "0.png", np.full((2, 2), k, np.uint8))
    assert load(tmp_path, "test")[0].unique().tolist() == [2]
    assert data.info("folder", tmp_path).classes == ("a", "b")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("first/cats", "first/dogs", "second/cats", "second/dogs"), "both have the sub-folders cats, dogs"),
        (
            ("first/cats", "first/dogs", "second/CATS", "second/dogs", "second/x"),
            "both have the sub-folders cats, dogs",
        ),
        (("cats/train", "cats/test", "dogs/train", "dogs/test"), "both have the sub-folders test, train"),
        (("cats/Train", "dogs/Train"), "both have the sub-folders train"),
        (("train/x/a", "train/x/b", "train/y/a", "train/y/b", "test/x/a", "test/y/a"), "x and y both have"),
        (("train/a", "Training/a", "test/a"), "are names of the same split: keep one of them"),
        (("train/a", "train/b", "test"), "test has no sub-folders: sort its images into one sub-folder per class"),
        (("train", "test"), "train has no sub-folders: sort"),
        (("train/a", "train/b", "bus"), "neither test nor val next to it: add .*; if train is a class, put its images"),
        (("Test/a", "Test/b"), r"no train next to it: add .*train; if Test is a class"),
    ],
)
def test_what_may_be_a_split_or_a_class_is_a_question(tmp_path, names, words):
    for name in names:
        for k in range(2):
            put(tmp_path / name / f"{k}.png", gray_levels())
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load(tmp_path)


@pytest.mark.parametrize("names", [("train", "bus"), ("Test", "bus"), ("train", "test", "bus"), ("valid", "train")])
def test_a_class_may_be_called_train(tmp_path, names):
    for name in names:
        for k in range(2):
            put(tmp_path / name / f"{k}.png", gray_levels())
    if "bus" not in names:
        with pytest.raises(ValueError, match="has no sub-folders"):
            load(tmp_path)
        put(tmp_path / "bus" / "0.png", gray_levels())
        put(tmp_path / "bus" / "1.png", gray_levels())
    assert data.info("folder", tmp_path).classes == tuple(sorted({*names, "bus"}))


def test_a_folder_of_the_same_name_inside_of_each_class_is_no_riddle(tmp_path):
    for name in ("a/images", "b/images", "__MACOSX/a"):
        for k in range(2):
            put(tmp_path / name / f"{k}.png", gray_levels())
    assert data.info("folder", tmp_path).classes == ("a", "b")
