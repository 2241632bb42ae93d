"""The cache of decoded sets: the same tensors, private to write to, rebuilt when stale or damaged, never in the way."""

import errno
import json
import os

import numpy as np
import pytest
import torch

from pursuitnet.data import cache

NAME = "set-train"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("PURSUITNET_CACHE", str(tmp_path / "cache"))
    return tmp_path


class Decoder:
    """Counts how often it decodes."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.images = torch.from_numpy(rng.integers(256, size=(5, 3, 4, 4), dtype=np.uint8))
        self.labels, self.calls = torch.arange(5), 0

    def __call__(self):
        self.calls += 1
        return self.images, self.labels


@pytest.fixture
def source(place):
    path = place / "original"
    path.write_bytes(b"original")
    return path


def same(found, decoder):
    return torch.equal(found[0], decoder.images) and torch.equal(found[1], decoder.labels)


def entry():
    (folder,) = (cache.folder() / "decoded").iterdir()  # one, and nothing half-written beside it
    return folder


def test_a_second_load_is_mapped_and_equal_and_decodes_nothing(source):
    decoder = Decoder()
    assert same(cache.cached(NAME, [source], decoder), decoder)
    warm = cache.cached(NAME, [source], decoder)
    assert decoder.calls == 1
    assert same(warm, decoder)
    assert [part.dtype for part in warm] == [torch.uint8, torch.int64]
    assert sorted(path.name for path in entry().iterdir()) == ["about.json", "images.npy", "labels.npy"]


def test_writing_to_the_tensors_leaves_the_cache_as_it_is(source):
    decoder = Decoder()
    cache.cached(NAME, [source], decoder)
    images, labels = cache.cached(NAME, [source], decoder)
    images.zero_(), labels.zero_()
    assert same(cache.cached(NAME, [source], decoder), decoder)
    assert decoder.calls == 1


def touch(path, _):
    os.utime(path, ns=(1, 1))


def lengthen(path, _):
    stat = path.stat()
    path.write_bytes(b"original, longer")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def read_otherwise(_, monkeypatch):
    monkeypatch.setattr(cache, "READER", cache.READER + 1)


@pytest.mark.parametrize("change", [touch, lengthen, read_otherwise])
def test_a_stale_entry_is_made_anew_silently(source, change, monkeypatch):
    cache.cached(NAME, [source], Decoder())
    change(source, monkeypatch)
    fresh = Decoder(1)
    assert same(cache.cached(NAME, [source], fresh), fresh)
    assert same(cache.cached(NAME, [source], fresh), fresh)
    assert fresh.calls == 1
    entry()


def test_another_place_and_another_name_have_entries_of_their_own(source, place):
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / source.name).write_bytes(b"original")
    decoders = [Decoder(seed) for seed in range(3)]
    asked = [(NAME, source), (NAME, place / "elsewhere" / source.name), ("set-test", source)]
    for _ in range(2):
        for (name, path), decoder in zip(asked, decoders, strict=True):
            assert same(cache.cached(name, [path], decoder), decoder)
    assert [decoder.calls for decoder in decoders] == [1, 1, 1]


@pytest.mark.parametrize("part", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("seed", range(5))
def test_a_byte_altered_anywhere_in_the_cache_warns_and_is_made_good(source, part, seed):
    decoder = Decoder()
    cache.cached(NAME, [source], decoder)
    path, rng = entry() / part, np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{entry().name} is damaged and is made again"):
        assert same(cache.cached(NAME, [source], decoder), decoder)
    assert same(cache.cached(NAME, [source], decoder), decoder)
    assert decoder.calls == 2


def cut(folder):
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-1])


def remove(folder):
    (folder / "labels.npy").unlink()


def garble(folder):
    (folder / "about.json").write_bytes(b"\xff{")


def other(folder):
    (folder / "about.json").write_text("[1]")


def forget(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps({key: about[key] for key in ("sources", "images")}))


@pytest.mark.parametrize("damage", [cut, remove, garble, other, forget])
def test_what_is_missing_or_garbled_warns_and_is_made_good(source, damage):
    decoder = Decoder()
    cache.cached(NAME, [source], decoder)
    damage(entry())
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        assert same(cache.cached(NAME, [source], decoder), decoder)
    assert same(cache.cached(NAME, [source], decoder), decoder)


def test_a_cache_that_cannot_be_written_costs_only_time(source, place):
    (place / "cache").write_text("a file where the folder should be")
    decoder = Decoder()
    for calls in (1, 2):
        with pytest.warns(UserWarning, match=f"{NAME} could not be cached") as warned:
            assert same(cache.cached(NAME, [source], decoder), decoder)
        assert (decoder.calls, len(warned)) == (calls, 1)


def test_a_full_disk_costs_only_time_and_leaves_no_half(source, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    decoder = Decoder()
    with pytest.warns(UserWarning, match="No space left on device"):
        assert same(cache.cached(NAME, [source], decoder), decoder)
    assert not list((cache.folder() / "decoded").iterdir())


def test_an_error_of_the_decoder_is_no_matter_of_the_cache(source):
    def broken():
        raise ValueError("the original is damaged")

    with pytest.raises(ValueError, match="the original is damaged"):
        cache.cached(NAME, [source], broken)


def test_who_comes_second_takes_the_place_or_leaves_it(source):
    """Two processes that decode the same set at once: the one that finishes later replaces the other's."""
    decoder = Decoder()

    def slow():
        cache.cached(NAME, [source], decoder)
        return decoder()

    assert same(cache.cached(NAME, [source], slow), decoder)
    assert same(cache.cached(NAME, [source], decoder), decoder)
    assert decoder.calls == 2
    entry()


def test_the_cache_is_where_the_variable_says_or_the_system_keeps_it(place, monkeypatch):
    assert cache.folder() == place / "cache"
    monkeypatch.delenv("PURSUITNET_CACHE")
    assert cache.folder().name == "pursuitnet"
