"""Data sets in miniature: the formats of the originals, with a few records and checksums of their own."""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import scipy.io
from torch import from_numpy

from pursuitnet import data
from pursuitnet.data import files


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


def sealed(layout, folder):
    """The layout with the sizes and checksums of the files in `folder` where it has any."""

    def of(file):
        content = (folder / file.name).read_bytes()
        return replace(file, size=file.size and len(content), checksum=file.checksum and md5(content))

    return replace(layout, files={split: tuple(map(of, names)) for split, names in layout.files.items()})


def install(monkeypatch, name, *layouts, page="https://example.org/"):
    """Let `data` read a data set in these layouts only."""
    original = data.DATASETS[name]
    reader = files.Originals(name, original.num_classes, layouts, page)
    monkeypatch.setitem(data.DATASETS, name, replace(original, read=reader))


def samples(seed, count, classes):
    """Random images (N, 3, 32, 32) and labels with every class equally often, if there are enough."""
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(count, 3, 32, 32), dtype=np.uint8), rng.permutation(count) % classes


def tensors(*parts):
    """What `load` should return for these samples in order."""
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return from_numpy(images), from_numpy(labels.astype(np.int64))


def records(images, labels, *before):
    """The binary form: label bytes, then the planes."""
    columns = [np.asarray(column, dtype=np.uint8)[:, None] for column in (*before, labels)]
    return np.concatenate([*columns, images.reshape(len(images), -1)], 1).tobytes()


def _old_text(text):
    return b"U" + bytes([len(text)]) + text


def pickled(images, labels, key, old=True):
    """The Python form: as NumPy and Python 2 wrote it (protocol 2, byte strings), or as today's would."""
    pixels = np.ascontiguousarray(images.reshape(len(images), -1))
    if not old:
        return pickle.dumps({"data": pixels, key: [int(k) for k in labels]}, protocol=2)
    shape = b"".join(b"J" + n.to_bytes(4, "little") for n in pixels.shape) + b"\x86"
    kind = b"cnumpy\ndtype\n" + _old_text(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + _old_text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = b"T" + len(pixels.tobytes()).to_bytes(4, "little") + pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _old_text(b"b") + b"\x87R"
    array += b"(K\x01" + shape + kind + b"\x89" + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([k]) for k in labels) + b"e"
    return b"\x80\x02}(" + _old_text(b"data") + array + _old_text(key.encode()) + numbers + b"u."


def matlab(images, labels, compressed=False):
    """The SVHN form: X (32, 32, 3, N), y with 10 for 0."""
    out = io.BytesIO()
    arrays = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
    scipy.io.savemat(out, arrays, do_compression=compressed)
    return out.getvalue()


def packed(folder, path):
    """Pack a folder as the originals are packed."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return path.read_bytes()
