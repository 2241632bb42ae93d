"""pursuitnet export."""

from pathlib import Path
from typing import Literal

from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.writable import check_file


def export(run: Path, *, format: Literal["onnx", "pt2"] = "onnx", out: Path | None = None) -> None:
    """Write a trained network as ONNX or PyTorch's exported program, for any batch and image size.

    Args:
        run: A run folder that `pursuitnet train` has left, its model.safetensors, or a pretrained network's name.
        format: onnx, or pt2 for torch.export.
        out: The file; by default model.onnx or model.pt2 in the run folder.
    """
    from pursuitnet.program.sharing import trained
    from pursuitnet.program.sharing.export import export as write
    from pursuitnet.program.sharing.loading import check_classifies

    path = RunFolder(run if run.is_dir() else run.parent).exported(format) if out is None else out
    network = trained(run)
    check_classifies(network, run)
    check_file(path)
    off = write(network, path, format)
    print(f"{path}\nlogits within {off:.1e} of the network's, relatively, on images of three sizes")
