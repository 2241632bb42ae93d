"""Forward and backward pass of a training step, captured once as a CUDA graph and launched as a whole."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Steps on a separate stream before the capture, in which libraries choose their algorithms and allocate."""


class GraphedStep:
    """A step that is captured at its first full batch and then replayed; batches of other shapes are computed eagerly.

    The gradients of a captured step are in fixed memory, which each replay overwrites, so they must not be set to None.

    Args:
        model: whose parameters get gradients; its state is restored after the capture.
        compute: takes a batch (images, labels), adds the gradients of its loss to the parameters, and returns the loss,
            without reading a number back from the device.
    """

    def __init__(self, model: nn.Module, compute: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.model, self.compute = model, compute
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failed = False

    def __call__(self, images: Tensor, labels: Tensor, size: int) -> Tensor:
        """Compute the gradients of a batch and return its loss, which the next call may overwrite.

        Args:
            images: (B, C, H, W).
            labels: (B,).
            size: B of a full batch.
        """
        if self.graph is None and not self.failed and len(labels) == size:
            self._capture(images, labels)
        if self.graph is None or images.shape != self.images.shape:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
            return self.compute(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels.clone()  # clone keeps the memory format
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        graph = torch.cuda.CUDAGraph()
        try:
            stream = torch.cuda.Stream(images.device)
            stream.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._compute_gradients()
            torch.cuda.current_stream(images.device).wait_stream(stream)
            self.model.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self.loss = self.compute(self.images, self.labels)
            self.graph = graph
        except RuntimeError as error:
            self.failed = True
            self.model.zero_grad(set_to_none=True)
            reason = str(error).splitlines()[0]
            warnings.warn(f"the step cannot be captured as a CUDA graph ({reason}); going on without", stacklevel=2)
        self.model.load_state_dict(state)

    def _compute_gradients(self) -> None:
        """Compute the gradients from None, as in the capture."""
        self.model.zero_grad(set_to_none=True)
        self.compute(self.images, self.labels)
