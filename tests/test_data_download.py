"""Downloads from a server on this machine that breaks off, lies, and knows or does not know Range."""

import contextlib
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import data_miniatures as mini
import numpy as np
import pytest
import torch

from pursuitnet import data
from pursuitnet.data import cifar, download, svhn
from pursuitnet.data.download import File

CONTENT = np.random.default_rng(0).bytes(200_000)


class Server:
    """Serves `content`; cuts each of the first answers after so many bytes; `seen` are the Range headers it got."""

    def __init__(self, content=CONTENT, cuts=(), ranges=True, status=None):
        self.content, self.cuts, self.ranges, self.status, self.seen = content, list(cuts), ranges, status, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})

    def answer(self, request):
        asked = request.headers.get("Range")
        self.seen.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            return request.end_headers()
        body = self.content[start:]
        request.send_response(self.status or (206 if start else 200))
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Encoding", "x-gzip")  # as some servers say of a .tar.gz, which must stay packed
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        request.end_headers()
        return request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def file(self, name="set.tar.gz", content=CONTENT):
        return File(name, mini.md5(content), url=f"http://127.0.0.1:{self.http.server_port}/{name}")


def left(folder):
    return {path.name for path in folder.iterdir()} - {"set.tar.gz.lock"}


def test_a_download_arrives_once(tmp_path):
    with Server() as server:
        for _ in range(2):
            path = download.fetch(server.file(), tmp_path / "new" / "folder")
            assert path.read_bytes() == CONTENT
    assert server.seen == [None]
    assert left(path.parent) == {"set.tar.gz"}


def test_a_connection_that_breaks_is_resumed_where_it_broke(tmp_path):
    with Server(cuts=[70_000, 60_000, 0, 1]) as server:
        with pytest.raises(ConnectionError, match="the connection is lost after 130000 bytes"):
            download.fetch(server.file(), tmp_path)  # the third attempt brings nothing
        assert left(tmp_path) == {"set.tar.gz.part"}
        assert download.fetch(server.file(), tmp_path).read_bytes() == CONTENT
    assert server.seen == [None, "bytes=70000-", "bytes=130000-", "bytes=130000-", "bytes=130001-"]
    assert left(tmp_path) == {"set.tar.gz"}


def test_a_server_that_ignores_range_starts_again_and_does_not_go_on_for_ever(tmp_path):
    with Server(cuts=[70_000, 70_000, 80_000], ranges=False) as server:
        with pytest.raises(ConnectionError, match="is lost after 70000 bytes"):
            download.fetch(server.file(), tmp_path)
        assert len(server.seen) == 2
        assert download.fetch(server.file(), tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == 4


def test_a_part_that_is_whole_already_is_used_and_one_too_long_is_dropped(tmp_path):
    for part in (CONTENT, CONTENT + b"more"):
        (tmp_path / "set.tar.gz.part").write_bytes(part)
        with Server() as server:
            path = download.fetch(server.file(), tmp_path)
            assert path.read_bytes() == CONTENT
        assert left(tmp_path) == {"set.tar.gz"}
        path.unlink()


def test_a_part_of_another_file_is_dropped_for_a_new_start(tmp_path):
    (tmp_path / "set.tar.gz.part").write_bytes(b"another file")
    with Server() as server:
        assert download.fetch(server.file(), tmp_path).read_bytes() == CONTENT
    assert server.seen == ["bytes=12-", None]


def test_wrong_bytes_are_refused_and_not_kept(tmp_path):
    with Server(CONTENT[:-1] + b"!") as server:
        with pytest.raises(ConnectionError, match=r"set\.tar\.gz could not be .*its checksum is wrong"):
            download.fetch(server.file(), tmp_path)
        assert left(tmp_path) == set()
        server.content = CONTENT
        assert download.fetch(server.file(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [True, False])
def test_no_more_is_fetched_than_the_file_holds(tmp_path, announced):
    class Endless(Server):
        sent = 0

        def answer(self, request):
            request.send_response(200)
            if announced:
                request.send_header("Content-Length", str(1 << 40))
            request.end_headers()
            with contextlib.suppress(OSError):
                while self.sent < 1 << 24:
                    self.sent += request.wfile.write(bytes(1 << 16))

    with Endless() as server:
        file = replace(server.file(), size=100_000)
        with pytest.raises(ConnectionError, match=r"sends more than the 100,000 bytes of the file"):
            download.fetch(file, tmp_path)
    assert left(tmp_path) == set()


def test_the_size_of_every_file_that_is_downloaded_is_known():
    for originals in (cifar.CIFAR10, cifar.CIFAR100, svhn.SVHN):
        for layout in originals.layouts:
            assert all(file.size for split in data.SPLITS for file in layout.downloads(split))


@pytest.mark.parametrize("why", ["nobody answers", "not found", "no folder"])
def test_a_download_that_fails_says_which_file_to_put_where(tmp_path, why):
    folder = tmp_path / "folder"
    with Server(status=404 if why == "not found" else None) as server:
        file = server.file()
        if why == "no folder":
            folder.write_text("a file is in the way")
        if why != "nobody answers":
            with pytest.raises(ConnectionError) as caught:
                download.fetch(file, folder)
    if why == "nobody answers":  # the server is gone
        with pytest.raises(ConnectionError) as caught:
            download.fetch(file, folder)
    message = str(caught.value)
    assert message.endswith(f"try again, or put {file.url} ({file.checksum}) into {folder} by hand")
    assert "\n" not in message


def test_several_who_ask_at_once_fetch_once(tmp_path):
    with Server() as server:
        askers = [threading.Thread(target=download.fetch, args=(server.file(), tmp_path)) for _ in range(4)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert len(server.seen) == 1
    assert (tmp_path / "set.tar.gz").read_bytes() == CONTENT


def test_the_bar_counts_every_byte_and_begins_where_the_part_ends(tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, initial, **_):
            self.total, self.n = total, initial
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            self.n += n

    monkeypatch.setattr("tqdm.tqdm", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT[:50_000])
    with Server() as server:
        download.fetch(server.file(), tmp_path)
    assert [(bar.total, bar.n) for bar in bars] == [(200_000, 200_000)]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """(content of an archive of CIFAR-100, its samples, its layout), and an empty cache."""
    monkeypatch.setenv("PURSUITNET_CACHE", str(tmp_path / "cache"))
    parts = {"train": mini.samples(1, 200, 100), "test": mini.samples(2, 100, 100)}
    folder = tmp_path / "made" / "cifar-100-binary"
    for name, (images, labels) in parts.items():
        mini.write(folder / f"{name}.bin", mini.records(images, labels, labels // 5))
    layout = mini.sealed(cifar.CIFAR100_BINARY, folder)
    return mini.packed(folder, tmp_path / "made" / "packed"), parts, layout


def equal(found, part):
    return all(torch.equal(*pair) for pair in zip(found, mini.tensors(part), strict=True))


def test_load_downloads_once_into_the_cache_and_finds_it_there(archive, tmp_path, monkeypatch):
    content, parts, layout = archive
    with Server(content) as server:
        file = server.file(layout.archive.name, content)
        mini.install(monkeypatch, "cifar100", replace(layout, archive=file))
        with pytest.raises(ValueError, match=r"cifar100 is not in .* or download=True \(--download\)"):
            data.load("cifar100")
        for split in ("test", "train"):
            assert equal(data.load("cifar100", split=split, download=True), parts[split])
    assert server.seen == [None]
    assert (tmp_path / "cache" / "cifar100" / file.name).is_file()
    assert equal(data.load("cifar100"), parts["train"])


def test_load_downloads_into_the_root_that_is_given_and_not_what_is_there(archive, tmp_path, monkeypatch):
    content, parts, layout = archive
    with Server(content) as server:
        file = server.file(layout.archive.name, content)
        mini.install(monkeypatch, "cifar100", replace(layout, archive=file))
        assert equal(data.load("cifar100", tmp_path / "made", download=True), parts["train"])
        assert server.seen == []
        assert equal(data.load("cifar100", tmp_path / "own", download=True), parts["train"])
    assert (tmp_path / "own" / file.name).is_file()


def test_svhn_downloads_the_file_of_the_split_only(tmp_path, monkeypatch):
    monkeypatch.setenv("PURSUITNET_CACHE", str(tmp_path))
    part = mini.samples(4, 12, 10)
    with Server(mini.matlab(*part)) as server:
        file = server.file("test_32x32.mat", server.content)
        mini.install(monkeypatch, "svhn", replace(svhn.SVHN.layouts[0], files={**svhn.FILES, "test": (file,)}))
        assert equal(data.load("svhn", split="test", download=True), part)
    assert {path.name for path in (tmp_path / "svhn").iterdir()} - {f"{file.name}.lock"} == {file.name}
    with pytest.raises(ValueError, match=r"the folder that contains train_32x32\.mat and test_32x32\.mat"):
        data.load("svhn")
