"""How many runs share this machine best: measured, by training so many at once for some seconds."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.jobs import started

GAIN = 1.1
"""A larger number must raise the rate of all runs together so many times to be worth it."""
BATCHES = 8


def best(recipe: Recipe, most: int, say: Callable[[str], None], seconds: float = 10.0) -> int:
    """Return how many runs at once to train: 1, 2, 4, … as long as they get more done together.

    Args:
        recipe: of a run such as those that are to be trained.
        most: is never exceeded.
        say: is told every rate.
        seconds: that each number is measured for, beside the start of its processes.

    Raises:
        RuntimeError: if not even one run can be trained, with what went wrong.
    """
    number, rate = 1, throughput(recipe, 1, seconds)
    say(f"1 run: {rate:.0f} images/s")
    while 2 * number <= most:
        try:
            more = throughput(recipe, 2 * number, seconds)
        except RuntimeError as error:  # such as a full memory
            say(f"{2 * number} runs at once: {error}")
            break
        say(f"{2 * number} runs at once: {more:.0f} images/s")
        if more < GAIN * rate:
            break
        number, rate = 2 * number, more
    return number


def throughput(recipe: Recipe, number: int, seconds: float) -> float:
    """Return the images a second of so many runs together, each in a process of its own.

    Raises:
        RuntimeError: if one of them fails, with its last line.
    """
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started("pursuitnet.program.reproduce.throughput", number)) for _ in range(number)
        ]
        for process in processes:
            stack.callback(process.kill)
        for process in processes:
            _tell(process, json.dumps({"recipe": recipe.to_json(), "seconds": seconds}))
        for process in processes:
            _read_line(process)
        for process in processes:
            _tell(process, "go")
        return sum(float(_read_line(process)) for process in processes)


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    if process.stdin is not None and process.poll() is None:
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _read_line(process: "subprocess.Popen[str]") -> str:
    """Return the next line that a process says."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        said = process.stderr.read().strip().splitlines() if process.stderr else []
        raise RuntimeError(said[-1] if said else "the process ended without a word")
    return line


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Warm up, say so, wait for a line on standard input, train for some seconds, say the images a second."""
    from pursuitnet.program.train import Trainer

    asked = json.loads(sys.stdin.readline())
    recipe = Recipe.from_json(asked["recipe"])
    try:
        trainer = Trainer(replace(recipe, train_images=BATCHES * recipe.batch_size, epochs=1_000_000, lr=1e-4))
        images = len(trainer.images.train[1])
        trainer.epoch(1)
        _say("ready")
        sys.stdin.readline()
        began, epochs = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < asked["seconds"]:
            trainer.epoch(epochs := epochs + 1)
        _say(str(epochs * images / took))
    except Exception as error:  # its last line is all that the other side reads
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
