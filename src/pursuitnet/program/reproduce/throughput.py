"""The best number of runs at once on this machine, measured by training several at once for some seconds."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.jobs import start_process
from pursuitnet.utils.memory import keep_freed_memory

GAIN = 1.1
"""Factor by which a larger number of runs must raise the total rate to be used."""
BATCHES = 8


def best_number(recipe: Recipe, most: int, say: Callable[[str], None], seconds: float = 10.0) -> int:
    """Return the number of runs to train at once: 1, 2, 4, … as long as the total rate rises.

    Args:
        recipe: of a typical run.
        most: largest number.
        say: called with a line of text for every rate.
        seconds: to measure each number for, without the start of its processes.

    Raises:
        RuntimeError: if not even one run can be trained; the message says why.
    """
    number, rate = 1, throughput(recipe, 1, seconds)
    say(f"1 run: {rate:.0f} images/s")
    while 2 * number <= most:
        try:
            more = throughput(recipe, 2 * number, seconds)
        except RuntimeError as error:  # such as out of memory
            say(f"{2 * number} runs at once: {error}")
            break
        say(f"{2 * number} runs at once: {more:.0f} images/s")
        if more < GAIN * rate:
            break
        number, rate = 2 * number, more
    return number


def throughput(recipe: Recipe, number: int, seconds: float) -> float:
    """Return the total images per second of ``number`` runs at once, each in its own process.

    Raises:
        RuntimeError: if one of them fails, with its last line.
    """
    with ExitStack() as stack:
        processes = [
            stack.enter_context(start_process("pursuitnet.program.reproduce.throughput", number)) for _ in range(number)
        ]
        for process in processes:
            stack.callback(process.kill)
        for process in processes:
            _send(process, json.dumps({"recipe": recipe.to_json(), "seconds": seconds}))
        for process in processes:
            _read_line(process)
        for process in processes:
            _send(process, "go")
        return sum(float(_read_line(process)) for process in processes)


def _send(process: "subprocess.Popen[str]", line: str) -> None:
    if process.stdin is not None and process.poll() is None:
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _read_line(process: "subprocess.Popen[str]") -> str:
    """Return the next line of a process's output."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        errors = process.stderr.read().strip().splitlines() if process.stderr else []
        raise RuntimeError(errors[-1] if errors else "the process ended without a message")
    return line


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Warm up, print "ready", wait for a line on standard input, train for some seconds, print images per second."""
    from pursuitnet.program.train import Trainer

    request = json.loads(sys.stdin.readline())
    recipe = Recipe.from_json(request["recipe"])
    try:
        trainer = Trainer(replace(recipe, train_images=BATCHES * recipe.batch_size, epochs=1_000_000, lr=1e-4))
        images = len(trainer.images.train[1])
        trainer.epoch(1)
        _write_line("ready")
        sys.stdin.readline()
        start, epochs = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < request["seconds"]:
            trainer.epoch(epochs := epochs + 1)
        _write_line(str(epochs * images / elapsed))
    except Exception as error:  # the parent process reads only the last line
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
