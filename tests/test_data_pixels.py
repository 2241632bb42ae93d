"""Image files of more than 8 bits, turned ones and broken ones: their scale and orientation are known or asked for."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from pursuitnet import data

LEVELS = np.array([[0, 1, 2], [128, 254, 255]], np.uint8)
NOISE = np.random.default_rng(0).integers(256, size=(16, 16), dtype=np.uint8)


def tiff(path, samples, bits=16, photometric=1, tags=()):
    """Write an uncompressed little-endian TIFF of one strip, by its specification."""
    height, width, channels = samples.shape if samples.ndim == 3 else (*samples.shape, 1)
    if bits == 12:  # rows of 12-bit numbers, the high bits first
        rows = ["".join(f"{value:012b}" for value in row) for row in samples]
        content = b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8)) for row in rows)
    else:
        content = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: channels, 278: height, 279: 0}
    entries |= {279: len(content), **dict(tags)}
    where = 8 + 2 + 12 * len(entries) + 4
    depths = b"" if channels == 1 else struct.pack(f"<{channels}H", *[bits] * channels)
    entries[273] = where + len(depths)
    listed = b"".join(
        struct.pack("<HHII", tag, 3, channels, where)
        if tag == 258 and depths
        else struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
        for tag, value in sorted(entries.items())
    )
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + listed + b"\0" * 4 + depths + content)


def folder(root, write, names=("a/0", "a/1", "b/0", "b/1"), suffix=".tiff"):
    """A folder of two classes, all of whose images one function writes."""
    for name in names:
        path = (root / name).with_suffix(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return root


def only(root, **choices):
    return data.load("folder", root, **choices)[0][0].squeeze().numpy()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation, compression):
    upright = np.arange(30, dtype=np.uint8).reshape(6, 5)
    turn = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }
    stored = Image.fromarray(np.ascontiguousarray(turn[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder(tmp_path, lambda path: stored.save(path, exif=exif, compression=compression))
    assert data.info("folder", tmp_path).image_size == (6, 5)
    assert np.array_equal(only(tmp_path), upright)


def test_numbers_of_32_bits_ask_for_their_white(tmp_path):
    folder(tmp_path, lambda path: Image.fromarray(LEVELS.astype(np.int32)).save(path))
    with pytest.raises(ValueError, match=r"tiff has numbers of 32 bits.* 0\.\.255: pass white_level .*4 files"):
        only(tmp_path)
    assert np.array_equal(only(tmp_path, white_level=255), LEVELS)


def test_floats_ask_for_their_white_and_have_it(tmp_path):
    folder(tmp_path, lambda path: Image.fromarray(LEVELS.astype(np.float32) / 255).save(path))
    with pytest.raises(ValueError, match=r"floating-point numbers, whose scale is not known, 0\.\.1:"):
        only(tmp_path)
    assert np.array_equal(only(tmp_path, white_level=1), LEVELS)
    Image.fromarray(np.array([[0, np.nan, 1], [0, 0, 0]], np.float32)).save(tmp_path / "a" / "1.tiff")
    with pytest.raises(ValueError, match=r"1\.tiff .*its pixels are nan\.\.nan, expected 0\.\.1, which is white"):
        only(tmp_path, white_level=1)


@pytest.mark.parametrize("suffix", [".tiff", ".png"])
def test_twelve_bits_in_sixteen_are_asked_for_and_keep_their_levels(tmp_path, suffix):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    folder(tmp_path, lambda path: Image.fromarray(values).save(path), suffix=suffix)
    with pytest.raises(ValueError, match=r"has 16 bits but no value above 4095: pass white_level \(--white-level\)"):
        only(tmp_path)
    assert np.array_equal(only(tmp_path, white_level=4095), np.round(values / 4095 * 255))
    assert len(np.unique(only(tmp_path, white_level=65535))) == 17  # as dark as they are said to be
    with pytest.raises(ValueError, match=r"its pixels are 0\.\.4095, expected 0\.\.1023, which is white"):
        only(tmp_path, white_level=1023)


def test_one_bright_image_says_that_all_have_16_bits(tmp_path):
    dark = np.full((2, 3), 257 * 3, np.uint16)
    folder(tmp_path, lambda path: Image.fromarray(dark).save(path))
    Image.fromarray(np.full((2, 3), 257 * 200, np.uint16)).save(tmp_path / "b" / "0.tiff")  # a test image
    assert (only(tmp_path) == 3).all()


def test_the_bits_and_the_largest_value_that_a_tiff_notes_are_its_scale(tmp_path):
    values = np.array([[0, 16, 1000], [2048, 4094, 4095]], np.uint16)
    expected = np.round(values / 4095 * 255)
    folder(tmp_path / "twelve", lambda path: tiff(path, values, bits=12))
    assert np.array_equal(only(tmp_path / "twelve"), expected)
    folder(tmp_path / "noted", lambda path: tiff(path, values, tags={281: 4095}))
    assert np.array_equal(only(tmp_path / "noted"), expected)
    folder(tmp_path / "statistic", lambda path: tiff(path, values // 2, tags={281: 2047 + 17}))
    with pytest.raises(ValueError, match="no value above 2047"):
        only(tmp_path / "statistic")


def test_where_zero_is_white_it_becomes_white(tmp_path):
    values = LEVELS.astype(np.uint16) * 257
    folder(tmp_path, lambda path: tiff(path, values, photometric=0))
    assert np.array_equal(only(tmp_path), 255 - LEVELS)


def test_a_pgm_of_twelve_bits_says_so_itself(tmp_path):
    values = np.array([[0, 16], [4094, 4095]], np.uint16)
    folder(tmp_path, lambda path: path.write_bytes(b"P5 2 2 4095\n" + values.astype(">u2").tobytes()), suffix=".pgm")
    assert np.array_equal(only(tmp_path), np.round(values / 4095 * 255))


def test_colors_of_twelve_bits_in_sixteen_are_not_taken_for_black(tmp_path):
    values = np.linspace(0, 4095, 18).astype(np.uint16).reshape(2, 3, 3)
    folder(tmp_path, lambda path: tiff(path, values, photometric=2))
    with pytest.raises(ValueError, match=r"has 16 bits a channel, of which 8 are read, but no value above 4095"):
        only(tmp_path)
    assert only(tmp_path, white_level=65535).max() == 15
    folder(tmp_path / "bright", lambda path: tiff(path, values * 16, photometric=2))
    assert only(tmp_path / "bright").max() == 255


def test_numbers_with_a_sign_are_refused_where_their_scale_is_not_known(tmp_path):
    folder(tmp_path / "short", lambda path: tiff(path, LEVELS.astype(np.int16) * 100, tags={339: 2}))
    with pytest.raises(ValueError, match="whose scale is not known"):
        only(tmp_path / "short")
    assert np.array_equal(only(tmp_path / "short", white_level=25500), LEVELS)
    folder(tmp_path / "byte", lambda path: tiff(path, np.array([[-1, 0, 1]] * 2, np.int8), bits=8, tags={339: 2}))
    with pytest.raises(ValueError, match="signed numbers of 8 bits"):
        only(tmp_path / "byte")


@pytest.mark.parametrize("white", [0, -1.0, float("inf"), float("nan")])
def test_a_white_that_is_none_is_refused(tmp_path, white):
    with pytest.raises(ValueError, match=r"white_level is .*: pass the value of white"):
        data.load("folder", tmp_path, white_level=white)
    with pytest.raises(ValueError, match="not for digits: leave them out"):
        data.load("digits", white_level=4095)


# broken files


@pytest.fixture
def damaged(tmp_path):
    """Two classes of 15 images, of which 13 are broken: no images, cut ones, in both splits, one a link to nothing."""
    names = [f"{name}/{k:02}" for name in "ab" for k in range(15)]
    root = folder(tmp_path / "set", lambda path: Image.fromarray(NOISE).save(path), names, suffix=".png")
    for k in range(0, 12, 2):
        (root / "a" / f"{k:02}.png").write_text("no image")
        cut = root / "b" / f"{k:02}.png"
        Image.fromarray(NOISE).save(cut, format="BMP")  # of which the header is read without the pixels
        cut.write_bytes(cut.read_bytes()[:-60])
    (root / "b" / "13.png").unlink()
    (root / "b" / "13.png").symlink_to(root / "nowhere")
    return root


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_broken_files_are_named_at_once(damaged, split):
    with pytest.raises(ValueError, match="13 files that cannot be read as images") as error:
        data.load("folder", damaged, split)
    said = str(error.value)
    assert said.count(".png (") == 10 and "and 3 more" in said and "pass skip_broken (--skip-broken)" in said
    assert "00.png (not an image)" in said and "truncated" in said


def test_broken_files_are_left_out_where_that_is_asked_for(damaged):
    expected = {"train": 24 - 4 - 4 - 1, "test": 6 - 2 - 2}
    for split, count in expected.items():
        with pytest.warns(UserWarning, match=f"broken files left out of those to {split} on: "):
            images, labels = data.load("folder", damaged, split, skip_broken=True)
        assert len(images) == len(labels) == count
        assert (images.squeeze(1) == torch.from_numpy(NOISE)).all()
        assert labels.unique().tolist() == [0, 1]
    assert len(data.load("folder", damaged, skip_broken=True)[1]) == expected["train"]  # from the cache
    with pytest.raises(ValueError, match="13 files"):
        data.load("folder", damaged)
    for k in (0, 5, 10):
        (damaged / "a" / f"{k:02}.png").write_text("no image")
    with pytest.raises(ValueError, match="class 'a' has no image to test on but broken ones"):
        data.load("folder", damaged, "test", skip_broken=True)
