"""The program: arguments → Recipe → run folder. PyTorch is loaded only when a command needs it."""

import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.argument import ArgumentCollection, update_argument_collection

from pursuitnet import __version__
from pursuitnet.recipe import Recipe, values_of

if TYPE_CHECKING:
    from pursuitnet.train import Record


def _from_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the options of `train` that are not given with those of --recipe."""
    names = [token.value for argument in arguments if "--recipe" in argument.names for token in argument.tokens]
    if commands == ("train",) and names:
        values = {name: value for name, value in values_of(names[-1]).items() if value is not None}
        update_argument_collection(values, names[-1], arguments, root_keys=(), allow_unknown=False)


app = App(
    name="pursuitnet",
    help="Train and look into networks whose layers are pursuits: a few steps of a sparse-coding solver.",
    version=__version__,
    help_on_error=False,
    config=_from_recipe,
)


@app.command
def train(
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),
    *,
    recipe: str | None = None,
    out: Path | None = None,
    resume: bool = False,
) -> None:
    """Train a network and leave a run folder with recipe, metrics, weights and report.html.

    Under torchrun, or SLURM's srun, every process trains on its own device and takes its share of each batch.

    Args:
        settings: what to train.
        recipe: Named recipe (residual, residual_deep and msd are the paper's, fast is ours) or a TOML or YAML file of
            the options below; an option that is given wins.
        out: The run folder; by default a new one below runs/.
        resume: Continue the run in --out after its last checkpoint, with the recipe it was started with.
    """
    from pursuitnet import report
    from pursuitnet import train as training
    from pursuitnet.train import StoppedError

    if resume:
        if out is None:
            raise ValueError("--resume continues a run: name its folder with --out")
        settings = training.read_recipe(out).going_on(settings)
    folder = _free_folder(settings) if out is None else out
    watch = _watcher(settings)
    began = time.perf_counter()
    try:
        last = training.train(settings, folder, watch, resume=resume)
    except StoppedError as stop:
        print(f"pursuitnet: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signal)
    finally:
        watch.close()
    if not training.group_of(os.environ).first:
        return
    page = report.write(folder)
    print(
        f"accuracy {_percent(last)} on test images, after epoch {last['epoch']}, in {time.perf_counter() - began:.0f} s"
    )
    print(f"{page}")


@app.command
def evaluate(run: Path) -> None:
    """Evaluate a trained network on the test images of its data set.

    Args:
        run: A run folder that `pursuitnet train` has left.
    """
    from pursuitnet import train as training

    recipe, model = training.load_run(run)
    images = training.images_of(recipe)
    loss, accuracy, _ = training.evaluate(model, images, images.test)
    count = len(images.test[1])
    print(f"accuracy {_percent({'test_accuracy': accuracy})} ({accuracy!r}), loss {loss:.4f}, {count} test images")


@app.command
def simulate(
    figure: Literal["fig1", "fig4", "ill-conditioned", "table1"],
    *,
    out: Path | None = None,
    variations: bool = False,
    seeds: int | None = None,
    iterations: int | None = None,
) -> None:
    """Compute a simulation or a small example of the paper; leave its numbers (JSON) and its picture (PNG).

    Args:
        figure: fig1 (coherence of dilated convolutions), fig4 (unsuccessful dimensions in training), ill-conditioned
            (the example of Section V-B) or table1 (CNN and CSC, row by row).
        out: A new folder for the files; by default runs/ and the figure's name.
        variations: fig4 only: how the curves move when what the paper leaves open is chosen otherwise.
        seeds: fig4 only: number of seeds; by default 5, or 3 for the variations.
        iterations: fig4 only: steps of the optimiser; by default 300.
    """
    from pursuitnet import simulate as simulations

    folder = Path("runs", f"{figure}-variations" if variations else figure) if out is None else out
    began = time.perf_counter()
    result, paths = simulations.run(
        figure, folder, lambda line: print(line, flush=True), seeds=seeds, iterations=iterations, variations=variations
    )
    print(f"\n{result.text}\n\nin {time.perf_counter() - began:.0f} s")
    print("\n".join(map(str, paths)))


@app.command
def inspect(run: Path, *, images: int = 64, unfolding: int = 4, tested: int = 1000, out: Path | None = None) -> None:
    """Read a trained network as layered sparse coding and write inspect.json and inspect.html.

    Args:
        run: A run folder that `pursuitnet train` has left.
        images: Test images to measure every layer on.
        unfolding: The most steps after the first to try without training anew.
        tested: Test images to count the accuracy on, at every number of steps.
        out: Where the two files go; by default into the run folder.
    """
    from pursuitnet.whitebox.run import inspect_run, summary

    found = inspect_run(run, images, unfolding, tested)
    page = found.save(run if out is None else out)
    print("\n".join(summary(found)))
    print(f"{page}")


@app.command
def models() -> None:
    """List the networks of the paper; other depths of a family exist too."""
    from pursuitnet.networks import list_models

    print("\n".join(list_models()))


def main() -> None:
    """Run the program; what a user got wrong ends in one line and exit code 2."""
    warnings.formatwarning = lambda message, *_, **__: f"pursuitnet: {message}\n"
    try:
        app(exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(" ".join(str(error).split()))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(
            "pursuitnet: interrupted; train keeps its last checkpoint, and --out DIR --resume goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)


def _fail(message: str) -> None:
    print(f"pursuitnet: {message}", file=sys.stderr)
    sys.exit(2)


def _percent(record: "Record") -> str:
    return f"{100 * record['test_accuracy']:.2f} %"


def _free_folder(recipe: Recipe) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, runs/NAME-3, … that does not exist."""
    name = f"{recipe.data}-{recipe.model}-seed{recipe.seed}"
    number = 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def _watcher(recipe: Recipe) -> "Lines":
    return Bar(recipe.epochs) if sys.stdout.isatty() else Lines(recipe.epochs)


class Lines:
    """A plain line an epoch, for logs and pipes."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def begin(self, about: dict[str, object]) -> None:
        """Say nothing."""

    def batch(self, epoch: int, step: int, steps: int) -> None:
        """Say nothing: a line an epoch is enough for a log."""

    def epoch(self, record: "Record") -> None:
        """Print the epoch's numbers."""
        print(self.line(record), flush=True)

    def close(self) -> None:
        """Do nothing: there is nothing to put back in order."""

    def line(self, record: "Record") -> str:
        """Return the epoch's numbers as a line."""
        return (
            f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}  train loss {record['train_loss']:.4f}  "
            f"test loss {record['test_loss']:.4f}  test accuracy {_percent(record)}  {record['seconds']:.1f} s"
        )


class Bar(Lines):
    """The same lines above a progress bar, for a terminal."""

    def __init__(self, epochs: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(epochs)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, transient=True)
        self.task = self.progress.add_task("", total=None)
        self.progress.start()

    def batch(self, epoch: int, step: int, steps: int) -> None:
        """Move the bar."""
        done = (epoch - 1) * steps + step
        self.progress.update(self.task, description=f"epoch {epoch}", total=self.epochs * steps, completed=done)

    def epoch(self, record: "Record") -> None:
        """Print the epoch's line above the bar."""
        self.progress.console.print(self.line(record), highlight=False)

    def close(self) -> None:
        """Take the bar away and give the cursor back."""
        self.progress.stop()
