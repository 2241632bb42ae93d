"""Zarr to zarr, tile by tile: axes and scales are kept, nothing is read whole, a killed process is continued."""

import json
import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
from programs import split_off

import pursuitnet as pn
from pursuitnet.program.apply import canvas
from pursuitnet.program.apply import files as applying
from pursuitnet.program.apply.files import Settings, apply_to_files
from pursuitnet.program.imaging import files
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train import train

zarr = pytest.importorskip("zarr")
FORMATS = [2, 3] if int(zarr.__version__.split(".")[0]) > 2 else [2]
each_format = pytest.mark.parametrize("zarr_format", FORMATS)


def pixels(*shape, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, 65_535, shape).astype(dtype)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A denoiser and a network for labels, trained for a moment."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("images", "targets"):
        (folder / kind).mkdir()
    for number in range(2):
        np.save(folder / "images" / f"{number}.npy", pixels(24, 24, seed=number))
        np.save(folder / "targets" / f"{number}.npy", (pixels(24, 24, seed=number) > 30_000).astype(np.uint8) * 3)
    tiny = {"data": "images", "data_dir": folder, "epochs": 1, "patch": 16, "batch_size": 4}
    train(Recipe(task="denoise", sigma="25", width=4, **tiny), folder / "denoise")
    train(Recipe(task="segment", model="msd_csc_2", width=1, **tiny), folder / "segment")
    return folder


def options_of(zarr_format, **more):
    return {**more, **({"zarr_format": zarr_format} if FORMATS != [2] else {})}


def plain(path, array, zarr_format=FORMATS[-1], **more):
    out = zarr.open(str(path), mode="w", shape=array.shape, dtype=array.dtype, **options_of(zarr_format, **more))
    out[...] = array


def ome(path, array, names, zarr_format):
    """An OME-Zarr image of two resolutions, of version 0.4 in zarr 2 and 0.5 in zarr 3."""
    units = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": n, "type": kinds.get(n, "space"), **({"unit": units[n]} if n in units else {})} for n in names]
    scale = [{"t": 0.5, "z": 2.0, "c": 1.0}.get(name, 0.25) for name in names]
    moves = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": [7.0] * len(names)}]
    levels = [{"path": str(level), "coordinateTransformations": moves} for level in range(2)]
    described = {"multiscales": [{"name": "cells", "axes": axes, "datasets": levels}]}
    group = zarr.open_group(str(path), mode="w", **options_of(zarr_format))
    group.attrs.update(described if zarr_format == 2 else {"ome": {"version": "0.5", **described}})
    separator = {"dimension_separator": "/"} if zarr_format == 2 else {}
    chunks = tuple(min(n, 8) for n in array.shape)
    plain(path / "0", array, zarr_format, chunks=chunks, **separator)
    plain(path / "1", array[..., ::2, ::2], zarr_format, chunks=chunks, **separator)


def apply(run, path, out, tile="none", **settings):
    (done,) = apply_to_files(run, [path], out, Settings(tile, **settings))
    assert not done.failed, str(done)
    return out / path.name


def described_by(path):
    attributes = dict(zarr.open(str(path), mode="r").attrs)
    return attributes.get("ome", attributes)


@pytest.mark.parametrize(
    ("names", "zarr_format"), [*zip(["yx", "tczyx", "cyx", "zyx"], (FORMATS * 4)[:4], strict=True)]
)
def test_ome_zarr_keeps_its_axes_and_scales(runs, tmp_path, names, zarr_format):
    size = {"t": 2, "c": 2, "z": 2, "y": 13, "x": 9}
    array = pixels(*(size[name] for name in names))
    ome(tmp_path / "image.ome.zarr", array, names, zarr_format)
    result = apply(runs / "denoise", tmp_path / "image.ome.zarr", tmp_path / "out", 9)
    whole = zarr.open(str(result), mode="r")["0"]
    before, after = (described_by(p)["multiscales"][0] for p in (tmp_path / "image.ome.zarr", result))
    assert after == {**before, "datasets": before["datasets"][:1]}
    assert (
        whole.shape == array.shape
        and whole.dtype == array.dtype
        and whole.chunks == tuple(min(n, 8) for n in array.shape)
    )
    assert ((result / "0" / "zarr.json").is_file()) == (zarr_format == 3)
    assert described_by(result).get("version") == ("0.5" if zarr_format == 3 else None)
    np.save(tmp_path / "page.npy", array[(-1,) * (len(names) - 2)])
    expected = np.load(apply(runs / "denoise", tmp_path / "page.npy", tmp_path / "page"))
    assert np.abs(np.asarray(whole)[(-1,) * (len(names) - 2)].astype(int) - expected).max() <= 1
    read = files.read(tmp_path / "image.ome.zarr")  # as for training
    assert np.array_equal(read[-1, ..., -1], array[(-1,) * (len(names) - 2)])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"image.ome.zarr", "apply.json", "run.lock"}


@each_format
def test_labels_have_one_channel_and_keep_the_scales(runs, tmp_path, zarr_format):
    ome(tmp_path / "image.zarr", pixels(1, 21, 19), "cyx", zarr_format)
    result = apply(runs / "segment", tmp_path / "image.zarr", tmp_path / "out")
    labels = np.asarray(zarr.open(str(result), mode="r")["0"])
    assert labels.shape == (1, 21, 19) and labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 3}
    assert [axis["name"] for axis in described_by(result)["multiscales"][0]["axes"]] == ["c", "y", "x"]


def test_an_axis_of_channels_comes_and_goes(tmp_path):
    from pursuitnet.program.imaging.zarr_images import create_like, open_pages

    ome(tmp_path / "gray.zarr", pixels(2, 9, 8), "tyx", FORMATS[-1])
    colors = create_like(tmp_path / "colors.zarr", open_pages(tmp_path / "gray.zarr"), 3, np.float32)
    assert colors.axes.names == ("t", "c", "y", "x") and colors.shape == (2, 9, 8, 3)
    scales = described_by(tmp_path / "colors.zarr")["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert scales[0]["scale"] == [0.5, 1.0, 0.25, 0.25] and scales[1]["translation"] == [7.0, 0.0, 7.0, 7.0]
    colors[1, slice(2, 4), slice(0, 2)] = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    again = open_pages(tmp_path / "colors.zarr")
    assert np.array_equal(again[1, slice(2, 4), slice(0, 2)].ravel(), np.arange(12))
    plain(tmp_path / "rgb.zarr", pixels(9, 8, 3))
    labels = create_like(tmp_path / "labels.zarr", open_pages(tmp_path / "rgb.zarr"), 1, np.uint8)
    assert labels.axes.shape == (9, 8)


def test_what_is_no_image_is_named(tmp_path, runs):
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    plain(tmp_path / "long.zarr", np.zeros((2, 3, 4, 5, 6), np.uint8))
    (one, two) = apply_to_files(
        runs / "denoise", [tmp_path / "group.zarr", tmp_path / "long.zarr"], tmp_path / "out", Settings()
    )
    assert "it is a group; name one of its arrays, or an OME-Zarr image" in str(one)
    assert "an array of shape (2, 3, 4, 5, 6); expected (H, W)" in str(two)


def test_no_array_is_read_or_written_whole(runs, tmp_path, monkeypatch):
    """Every access is to a tile and its halo; the largest is far below the image."""
    array, accesses = pixels(160, 150), {"read": [], "written": []}
    plain(tmp_path / "image.zarr", array, chunks=(32, 32))
    halo = pn.load(runs / "segment").halo
    read, write = zarr.Array.__getitem__, zarr.Array.__setitem__

    def reading(self, selection):
        part = read(self, selection)
        accesses["read"].append(np.asarray(part).size)
        return part

    def writing(self, selection, value):
        accesses["written"].append(np.asarray(value).size)
        write(self, selection, value)

    monkeypatch.setattr(zarr.Array, "__getitem__", reading)
    monkeypatch.setattr(zarr.Array, "__setitem__", writing)
    result = apply(runs / "segment", tmp_path / "image.zarr", tmp_path / "out", 32)
    assert len(accesses["read"]) == len(accesses["written"]) == 5 * 5
    assert max(accesses["read"]) <= (32 + 2 * halo) ** 2 < array.size / 8
    assert max(accesses["written"]) == 32**2 and sum(accesses["written"]) == array.size
    files.read(result)
    assert accesses["read"][-1] == array.size  # a whole read would be seen


def test_a_large_tiff_is_mapped_into_memory(runs, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "image.tif", pixels(3, 30, 20), photometric="minisblack", bigtiff=True)
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        assert file.is_bigtiff
    pages, shape = files.read_lazily(tmp_path / "image.tif")
    assert isinstance(pages, np.memmap) and shape == (3, 30, 20)
    result = apply(runs / "denoise", tmp_path / "image.tif", tmp_path / "out", 11)
    assert files.read(result).shape == (3, 30, 20, 1)


def slowly(run, image, out):
    """Apply a network as the program does, with a pause before every tile, and save the progress after each."""
    compute = applying.results_of
    canvas.EVERY, canvas.LARGE = 0.0, 1
    applying.results_of = lambda *given: time.sleep(0.1) or compute(*given)
    list(apply_to_files(run, [image], out, Settings(16)))


@pytest.mark.parametrize("ending", [".zarr", ".ome.zarr", ".npy"])
def test_apply_killed_in_the_middle_goes_on_to_the_same_result(runs, tmp_path, monkeypatch, ending):
    image, array = tmp_path / f"image{ending}", pixels(64, 60)
    if ending == ".zarr":
        plain(image, array, chunks=(24, 24))  # tiles and chunks cross
    elif ending == ".npy":
        np.save(image, array)
    else:
        ome(image, array, "yx", FORMATS[-1])
    whole = files.read(apply(runs / "segment", image, tmp_path / "whole", 16))
    progress = tmp_path / "out" / f".{image.name}.part.json"

    def done():
        with suppress(OSError, ValueError):
            return json.loads(progress.read_text())["done"]
        return 0

    process = split_off(slowly, runs / "segment", image, tmp_path / "out")
    while process.is_alive() and done() < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 3 <= (before := done()) < 16 and not (tmp_path / "out" / image.name).exists()
    if ending != ".npy":  # what zarr leaves of a chunk that it was writing
        leftover = tmp_path / "out" / f".{image.name}.part.zarr" / "chunk.0123.partial"
        leftover.touch()
    compute, computed = applying.results_of, []
    monkeypatch.setattr(canvas, "LARGE", 1)
    monkeypatch.setattr(applying, "results_of", lambda *given: computed.append(given) or compute(*given))
    result = apply(runs / "segment", image, tmp_path / "out", 16)
    assert len(computed) == 16 - before
    assert np.array_equal(files.read(result), whole)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {image.name, "apply.json", "run.lock"}
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_after_a_stop_other_tiles_and_another_image_are_begun_anew(runs, tmp_path, monkeypatch):
    """The number of finished tiles counts only for these tiles of this image, whose chunks are files in a folder."""
    image, compute = tmp_path / "image.zarr", applying.results_of
    plain(image, pixels(32, 32), chunks=(16, 16))

    def stopped(*given):
        computed.append(given)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return compute(*given)

    computed = []
    for tile, change in ((8, False), (16, True)):
        computed.clear()
        monkeypatch.setattr(applying, "results_of", stopped)
        with pytest.raises(KeyboardInterrupt):
            apply(runs / "segment", image, tmp_path / str(tile), 16)
        if change:
            zarr.open(str(image), mode="r+")[:16, :16] = 0
        computed.clear()
        monkeypatch.setattr(applying, "results_of", lambda *given: computed.append(given) or compute(*given))
        result = files.read(apply(runs / "segment", image, tmp_path / str(tile), tile))
        assert len(computed) == (32 // tile) ** 2
        assert np.array_equal(result, files.read(apply(runs / "segment", image, tmp_path / f"whole{tile}")))
    zarr.open(str(image), mode="r+")[:16, :16] = 1
    (done,) = apply_to_files(runs / "segment", [image], tmp_path / "16", Settings(16))
    assert done.failed and "is not overwritten" in str(done)


PRELOADED = """
import os
from pathlib import Path
from pursuitnet.program.apply import tiles

mark = Path({mark!r})
if tiles.results_of.__name__ != "killed_once":  # Dask may load this twice
    compute = tiles.results_of

def killed_once(*given):
    if given[1][0].tile.inner[0].start == 16 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return compute(*given)

killed_once.__module__, killed_once.__qualname__ = tiles.__name__, "results_of"
tiles.results_of = killed_once
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # distributed's own, when a worker dies
def test_tiles_are_spread_over_a_cluster_and_those_of_a_killed_worker_computed_again(runs, tmp_path):
    distributed = pytest.importorskip("distributed")
    plain(tmp_path / "image.zarr", pixels(64, 60), chunks=(24, 24))
    expected = files.read(apply(runs / "segment", tmp_path / "image.zarr", tmp_path / "here", 16))
    script, mark = tmp_path / "kill.py", tmp_path / "killed"
    script.write_text(PRELOADED.format(mark=str(mark)))
    workers = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "preload": [str(script)]}
    with distributed.LocalCluster(**workers, dashboard_address=None) as local:
        where = {"dask": local.scheduler_address}
        result = apply(runs / "segment", tmp_path / "image.zarr", tmp_path / "out", 16, **where)
    assert mark.exists() and np.array_equal(files.read(result), expected)


def test_a_cluster_that_is_lost_or_not_there_is_named_and_what_was_done_is_kept(runs, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from pursuitnet.program.apply.cluster import on_cluster

    class Client:
        def __init__(self, address):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, function, *arguments, **_):
            return self

        def nthreads(self):
            return {"one": 1}

        def result(self):
            raise distributed.KilledWorker("tile", None, 3)

    monkeypatch.setattr(distributed, "Client", Client)
    with (
        pytest.raises(OSError, match=r"the cluster at tcp://x:1 lost its workers \(KilledWorker\); what was done"),
        on_cluster("tcp://x:1", dict, dict) as compute,
    ):
        list(compute([(1,), (2,)]))
    plain(tmp_path / "image.zarr", pixels(30, 20))
    settings = Settings(16, dask="tcp://x:1")
    (done,) = apply_to_files(runs / "segment", [tmp_path / "image.zarr"], tmp_path / "out", settings)
    assert done.failed and "lost its workers" in str(done)
