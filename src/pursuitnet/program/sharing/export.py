"""A trained network as ONNX or as PyTorch's exported program, for any batch and image size."""

import copy
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from pursuitnet.program.sharing.loading import Deployed, Trained
from pursuitnet.program.writable import write_whole

SIZES = ((1, 32, 32), (2, 45, 31), (5, 8, 28))
"""Batch and image sizes on which an export is checked."""
TOLERANCE = 1e-4
"""Largest difference of a logit from the network's, relative to its largest one, that an export may have."""
AXES = {0: "batch", 2: "height", 3: "width"}
"""Axes of the images that may have any size."""
ONE_PIXEL = "1 < L['images'].size()[2]*L['images'].size()[3]"
"""The guard that PyTorch adds to programs for images of one channel."""
Runtime = Callable[[Tensor], Tensor]


def export(trained: Trained, path: Path, format: str) -> float:
    """Write an exported network that takes images in [0, 1], and return the relative error of its logits.

    The input is named images, float32 (B, C, H, W) of any batch and size, the output logits (B, classes); the names of
    the classes are in the metadata. The file is run by its own runtime on several sizes before it is moved to its path.

    Args:
        trained: the network.
        path: the file; it must not exist.
        format: "onnx" or "pt2".

    Raises:
        FileExistsError: if the file exists.
        FileNotFoundError: if its folder does not exist.
        ImportError: if a required package is missing.
        ValueError: for another format, or if the exported network does not give the network's logits; then no file is
            left.
    """
    writers = {"onnx": _write_onnx, "pt2": _write_pt2}
    if format not in writers:
        raise ValueError(f"format is {format!r}; expected {' or '.join(writers)}")
    if any(layer.unfolding == "solved" for layer in trained.network.pursuits()):
        raise ValueError(
            "the layers are solved, by a number of steps that depends on the image, which no exported file can hold; "
            "expected a network of a fixed number of steps: train with a number as --unfolding"
        )
    if path.exists():
        raise FileExistsError(f"{path} exists; name another --out")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder; create it, or name another --out")
    model = copy.deepcopy(trained.deployed()).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        exported = Path(folder, f"model.{format}")
        with _quiet():
            run = writers[format](_program(model), exported, trained)
        error = max(_difference(model, run, size) for size in SIZES)
        if not error <= TOLERANCE:
            raise ValueError(
                f"the exported logits differ by {error:.1e} of the largest one; expected at most {TOLERANCE:.0e}"
            )
        os.replace(exported, path)
    return error


def _program(model: Deployed) -> ExportedProgram:
    """Return the network as a program for any batch size and any image size, for most networks also one pixel."""
    images = torch.zeros(7, len(model.mean), 100, 102, device="cpu")
    sizes = {"images": dict.fromkeys(AXES, Dim.AUTO)}
    from torch.fx.experimental import _config

    if not hasattr(_config, "backed_size_oblivious"):
        raise ImportError(f"PyTorch {torch.__version__} cannot export for any size: pip install --upgrade torch")
    # otherwise a code of one pixel, on small images, would need another program
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(model, (images,), dynamic_shapes=sizes)
    # one pixel of one channel has another memory layout, on which no logit depends
    program._guards_code = [g for g in getattr(program, "_guards_code", ()) if g != ONE_PIXEL]
    return program


def _difference(model: Deployed, run: Runtime, size: tuple[int, int, int]) -> float:
    batch, height, width = size
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(batch, len(model.mean), height, width, generator=draws, device="cpu")
    with torch.no_grad():
        expected, actual = model(images), run(images)
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _write_pt2(program: ExportedProgram, path: Path, trained: Trained) -> Runtime:
    content = io.BytesIO()  # PyTorch writes to no path that is not UTF-8
    torch.export.save(program, content, extra_files={"classes": json.dumps(trained.classes)})
    write_whole(path, content.getvalue())
    content.seek(0)
    return torch.export.load(content).module()


def _write_onnx(program: ExportedProgram, path: Path, trained: Trained) -> Runtime:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise ImportError(f"ONNX needs {error.name}: pip install 'pursuitnet[export]'") from error
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": {"images": AXES}}
    exported: Any = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    exported.model.metadata_props["classes"] = json.dumps(trained.classes)
    exported.save(path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    content = Path(path).read_bytes()  # ONNX Runtime takes no paths that are not UTF-8
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of the exporters about their own internals, and about packages that are not used here.

    PyTorch's exporter copies its records with copyreg in a way that it deprecates itself.
    """
    log = logging.getLogger("torch.onnx")
    before, log.level = log.level, logging.ERROR
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings(
                    "ignore", category=kind, module=r"(copyreg|torch|onnx|onnxscript|onnx_ir)(\.|$)"
                )
            yield
    finally:
        log.level = before
