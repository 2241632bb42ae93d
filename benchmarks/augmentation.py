"""Time to augment and normalize a batch of images, compared with the simple way: pad, then crop image by image.

    python benchmarks/augmentation.py [--batch 128] [--size 32] [--threads 1] [--seconds 2]

Random uint8 images of three channels, shifts of up to 4 pixels and flips, then the normalized float batch in the
memory format channels_last. Both use the same draws and give the same batch, which is checked first. Prints
microseconds per image: the median over alternating repetitions.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pursuitnet import data

MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])


def generator() -> torch.Generator:
    """Return the generator from which every repetition draws again."""
    return torch.Generator().manual_seed(0)


def plain_augment(images: Tensor, mode: str, shift: int = 4) -> Tensor:
    """Return what `data.augment` returns, image by image."""
    draws, batch = generator(), (len(images), 1)
    down, right = (torch.randint(-shift, shift + 1, batch, generator=draws) for _ in range(2))
    mirrored = torch.randint(0, 2, batch, generator=draws) == 1
    sides, (height, width) = [shift] * 4, images.shape[2:]
    if mode == "zeros":
        padded = torch.nn.functional.pad(images, sides)
    else:  # not there for bytes
        padded = torch.nn.functional.pad(images.float(), sides, mode="reflect").to(torch.uint8)
    flipped = padded.flip(3)
    cuts = []
    for k in range(len(images)):
        top, left = shift - int(down[k]), shift - int(right[k])
        source = flipped if mirrored[k] else padded
        cuts.append(source[k, :, top : top + height, left : left + width])
    return torch.stack(cuts)


def plain_scale(images: Tensor) -> Tensor:
    """Return what `data.standardize` returns, one operation after the other."""
    scaled = ((images.float() / 255) - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)


def medians(tasks: dict[str, Callable[[], Tensor]], seconds: float) -> dict[str, float]:
    """Return each task's median seconds; the tasks take turns, so that a busy moment meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    end = time.perf_counter() + seconds * len(tasks)
    while time.perf_counter() < end or min(map(len, times.values())) < 10:
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - began)
    return {name: sorted(each)[len(each) // 2] for name, each in times.items()}


def tasks_of(images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return what is timed: augmentation in both modes, scaling, and both together."""
    last = images.contiguous(memory_format=torch.channels_last)
    tasks: dict[str, Callable[[], Tensor]] = {}
    for mode in data.FILLINGS:
        tasks |= {
            f"augment, {mode}: plain": lambda mode=mode: plain_augment(images, mode),
            f"augment, {mode}: ours": lambda mode=mode: data.augment(images, generator(), mode=mode),
            f"augment, {mode}: ours, channels last": lambda mode=mode: data.augment(last, generator(), mode=mode),
        }
    return tasks | {
        "standardize: plain": lambda: plain_scale(images),
        "standardize: ours": lambda: data.normalize(images, MEAN, STD),
        "standardize: ours, channels last": lambda: data.normalize(last, MEAN, STD),
        "both, zeros: plain": lambda: plain_scale(plain_augment(images, "zeros")),
        "both, zeros: ours": lambda: data.normalize(data.augment(images, generator()), MEAN, STD),
        "both, zeros: ours, channels last": lambda: data.normalize(data.augment(last, generator()), MEAN, STD),
    }


def main() -> None:
    """Check that all agree, time them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="images per batch")
    parser.add_argument("--size", type=int, default=32, help="height and width")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    tasks = tasks_of(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator()))
    for name, task in tasks.items():
        assert torch.equal(task(), tasks[name.split(":")[0] + ": plain"]()), name
    print(f"batches of {shape}, {arguments.threads} thread(s), torch {torch.__version__}: µs an image")
    for name, seconds in medians(tasks, arguments.seconds).items():
        print(f"{name:42} {1e6 * seconds / arguments.batch:8.2f}")


if __name__ == "__main__":
    main()
