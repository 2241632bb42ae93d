"""The program: arguments → Recipe → run folder. PyTorch is loaded only when a command needs it."""

import json
import os
import sys
import time
import warnings
from contextlib import closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import App, CycloptsError, Parameter
from cyclopts.argument import ArgumentCollection, update_argument_collection

from pursuitnet import __version__
from pursuitnet.program import hints, streams, threads
from pursuitnet.program.apply.command import apply
from pursuitnet.program.learn.command import learn
from pursuitnet.program.predict.command import predict
from pursuitnet.program.recipe import NETWORK, Recipe, values_of
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.writable import check_file, check_folder
from pursuitnet.utils.paths import expanded

if TYPE_CHECKING:
    from pursuitnet.program.train import Record


def _whole(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse a fraction where a whole number is expected, which would be rounded."""
    for argument in arguments:
        kinds = {argument.hint, *get_args(argument.hint)}
        if int in kinds and float not in kinds:
            for token in argument.tokens:
                if _fraction(token.value):
                    raise ValueError(f"{argument.name} is {token.value}; expected a whole number")


def _fraction(text: str) -> bool:
    try:
        return not float(text).is_integer()
    except ValueError:  # no number, which is refused elsewhere
        return False


def _from_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the options of `train` that are not given with those of --recipe."""
    names = [token.value for argument in arguments if "--recipe" in argument.names for token in argument.tokens]
    if commands == ("train",) and names:
        values = {name: value for name, value in values_of(names[-1]).items() if value is not None}
        update_argument_collection(values, names[-1], arguments, root_keys=(), allow_unknown=False)


def _expand_home(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Expand ~ in every option and argument that is a path; the shell leaves it as it is in --out=~/run."""
    for argument in arguments:
        if Path in (argument.hint, *get_args(argument.hint)):
            argument.tokens[:] = [token.evolve(value=str(expanded(token.value))) for token in argument.tokens]


def _from_run(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the options of `train --resume` that are not given with those of the run, so that given ones stand out."""
    given = {argument.name: argument for argument in arguments if argument.tokens}
    if commands == ("train",) and "--out" in given and "--resume" in given and given["--resume"].convert():
        path = RunFolder(given["--out"].convert()).recipe
        values = {name: value for name, value in _json(path).items() if value is not None}
        update_argument_collection(values, str(path), arguments, root_keys=(), allow_unknown=False)


def _from_init(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the network's options of `train --init` that are not given with those of the run it begins with."""
    names = [token.value for argument in arguments if "--init" in argument.names for token in argument.tokens]
    if commands == ("train",) and names:
        path = RunFolder(expanded(names[-1])).recipe
        values = {name: value for name, value in _json(path).items() if name in NETWORK and value is not None}
        update_argument_collection(values, str(path), arguments, root_keys=(), allow_unknown=False)


def _json(path: Path) -> dict[str, Any]:
    """Return the fields of a run's recipe; none if it is not one, which is said when the run is read."""
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8"))).to_json()
    except (OSError, ValueError, RecursionError):
        return {}


app = App(
    name="pursuitnet",
    help="Train and look into networks whose layers are pursuits: a few steps of a sparse-coding solver.",
    version=__version__,
    help_on_error=False,
    config=(_whole, _from_recipe, _expand_home, _from_run, _from_init),
)


@app.command
def train(
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),
    *,
    recipe: str | None = None,
    out: Path | None = None,
    resume: bool = False,
    download: bool = False,
    tensorboard: bool = False,
) -> None:
    """Train a network and leave a run folder with recipe, metrics, weights and report.html.

    Under torchrun, or SLURM's srun, every process trains on its own device and takes its share of each batch.

    Args:
        settings: what to train.
        recipe: Named recipe (residual, residual_deep and msd are the paper's, fast is ours) or a TOML or YAML file of
            the options below; an option that is given wins.
        out: The run folder; by default a new one below runs/.
        resume: Continue the run in --out after its last checkpoint, with the recipe it was started with.
        download: Fetch what is missing of the data set from its official place, into --data-dir or the user's cache.
        tensorboard: Write every epoch's numbers for TensorBoard too, into the run folder's tensorboard/.
    """
    from pursuitnet.program import callbacks, report
    from pursuitnet.program import train as training
    from pursuitnet.program.train import StoppedError

    if resume:
        if out is None:
            raise ValueError("--resume continues a run: name its folder with --out")
        settings = training.read_recipe(out).resumed_with(settings)
    folder = _free_folder(settings) if out is None else out
    check_folder(folder)
    if download:
        _fetch(settings)
    callback = callbacks.of_program(terminal=sys.stdout.isatty(), tensorboard=tensorboard)
    began = time.perf_counter()
    try:
        with closing(callback):
            last = training.train(settings, folder, callback, resume=resume)
    except StoppedError as stop:
        print(f"pursuitnet: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signal)
    if not training.group_of(os.environ).first:
        return
    took = f"on test images, after epoch {last['epoch']}, in {time.perf_counter() - began:.0f} s"
    if settings.task != "classify":
        print(f"{_of_images(last)} {took}\n{report.write_images(folder)}")
        return
    print(f"accuracy {_percent(last)} {took}")
    print(f"{report.write(folder, settings.data_dir, settings.device)}")


@app.command
def evaluate(
    run: Path,
    *,
    unfolding: int | None = None,
    threshold: float | None = None,
    corruptions: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    adapt: Literal["reconstruction", "usage"] | None = None,
    certify: Annotated[bool, Parameter(negative="")] = False,
    test_images: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    plot: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
) -> None:
    """Evaluate a trained network on the test images of its data set and write evaluation.json.

    Args:
        run: A run folder that `pursuitnet train` has left, or the name of a pretrained network, such as res_csc_20.
        unfolding: Steps after the first, instead of those it was trained with.
        threshold: Number that all thresholds are multiplied by.
        corruptions: Also test on corrupted images, at five strengths: of all kinds, or of those named after it
            (gaussian_noise, shot_noise, impulse_noise, gaussian_blur, defocus_blur, contrast, jpeg).
        adapt: With --corruptions, also multiply the thresholds by what brings codes of the corrupted images back to
            those of clean training images: how well they reconstruct their layer's input, or how often each atom of
            the last layer is used; no label is used.
        certify: Also the radius around every image inside which its label cannot change; for certified networks.
        test_images: Test only the first so many images; of a folder a fixed random choice, every class in proportion.
        data_dir: Folder of the data set, if it is no longer where it was in training.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
        plot: Also write evaluation.png, and certification.png with --certify.
        out: Where the files go; by default into the run folder.
    """
    from pursuitnet.data.progress import progress
    from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run

    chosen = None if corruptions is None else tuple(corruptions)
    settings = Settings(unfolding, threshold, chosen, adapt, test_images, certify)
    files = RunFolder(run)
    pictures = [files.evaluation_picture, *([files.certification_picture] if certify else [])]
    written = [files.evaluation, *(pictures if plot else [])]
    folder = _into(run, out, *(path.name for path in written))
    with progress("images") as tell:
        found = evaluate_run(run, settings, tell, data_dir, device)
    print("\n".join(found.lines()))
    print("\n".join(map(str, found.save(folder, plot))))


app.command(apply)


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
        iterations: fig4 only: steps of the optimizer; by default 300.
    """
    from pursuitnet.data.progress import progress, say
    from pursuitnet.program import simulate as simulations

    folder = Path("runs", f"{figure}-variations" if variations else figure) if out is None else out
    check_folder(folder)
    began = time.perf_counter()
    with progress("runs", simulations.count(figure, seeds, variations)) as tell:

        def callback(line: str) -> None:
            say(line)
            tell(not line.startswith("\n"))  # but the result is no run

        chosen = {"seeds": seeds, "iterations": iterations, "variations": variations}
        _, paths = simulations.run(figure, folder, callback, **chosen)  # type: ignore[arg-type]
    print(f"\nin {time.perf_counter() - began:.0f} s")
    print("\n".join(map(str, paths)))


@app.command
def inspect(
    run: Path,
    *,
    images: int = 64,
    unfolding: int = 4,
    test_images: int = 1000,
    data_dir: Path | None = None,
    device: str = "auto",
    out: Path | None = None,
) -> None:
    """Read a trained network as layered sparse coding and write inspect.json and inspect.html.

    Args:
        run: A run folder that `pursuitnet train` has left, or the name of a pretrained network.
        images: Test images to measure every layer on.
        unfolding: The most steps after the first to try without training again.
        test_images: Test images to count the accuracy on, at every number of steps.
        data_dir: Folder of the data set, if it is no longer where it was in training.
        device: Where to compute: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …
        out: Where the two files go; by default into the run folder.
    """
    from pursuitnet.data.progress import progress
    from pursuitnet.program.whitebox.inspect_run import inspect_run, summary

    folder = _into(run, out, RunFolder(run).inspection.name, RunFolder(run).inspection_page.name)
    with progress("parts") as tell:
        found = inspect_run(run, images, unfolding, test_images, data_dir, device, tell)
    print("\n".join(summary(found)))
    print(f"{found.save(folder)}")


@app.command
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


@app.command
def reproduce(
    table: Literal["table2", "table3", "tables", "fig7", "fig8", "ablation", "fig1", "fig4"],
    *,
    filter: tuple[str, ...] = (),
    seeds: int | None = None,
    scale: Literal["full", "fast", "medium", "small"] = "full",
    budget: str | None = None,
    dry_run: bool = False,
    data_dir: Path | None = None,
    device: str = "auto",
    jobs: int | Literal["auto"] = 1,
    dask: str | None = None,
    cluster: Path | None = None,
    ledger: Path = Path("experiments", "results", "ledger"),
    runs: Path = Path("runs", "reproduce"),
    out: Path | None = None,
) -> None:
    """Make a table or figure of the paper: run what the ledger lacks of it, and draw it from the ledger.

    Args:
        table: table2 and fig7 (residual networks), table3 and fig8 (ML-CSC and MSD-CSC), tables (both), ablation (what
            the paper leaves open), or a simulation.
        filter: Part of it, such as 'msd_csc_12, cifar10, unfolding=2'; given several times, each adds its part.
        seeds: Runs of every cell; by default 1, and at the scale medium 5, or 3 of networks of 56 layers.
        scale: As the paper trains, or in a table of its own fast: all of CIFAR-10 by one cycle of 30 epochs; medium: of
            4 epochs; small: a fixed part of CIFAR-10 and few epochs.
        budget: Time after which to stop, such as 25min; what is cut off goes on the next time.
        dry_run: Only say what is missing and how long it will take.
        data_dir: Folder that holds the data sets.
        device: Device of each run.
        jobs: Runs at once on this machine; auto measures first how many get most done together.
        dask: Address of a Dask scheduler whose workers share this folder.
        cluster: YAML file that describes workers to ask a batch system for.
        ledger: Folder of the records.
        runs: Folder of the run folders.
        out: Where the table goes; by default runs/ and its name.
    """
    if table == "fig1" or table == "fig4":
        simulate(table, out=out)
        return
    from pursuitnet.program.reproduce import Options
    from pursuitnet.program.reproduce.cluster import cluster_of
    from pursuitnet.program.reproduce.program import program, show_running

    options = Options(table, filter, seeds, scale, data_dir, device, ledger, runs)
    where = cluster_of(dask, cluster, device)
    folder = Path("runs", table) if out is None else out
    plain = nullcontext(partial(print, flush=True))
    with show_running(runs) if sys.stdout.isatty() else plain as say:
        at_once = None if jobs == "auto" else jobs
        failed = program(options, folder, say, budget=budget, dry_run=dry_run, at_once=at_once, cluster=where)
    if failed:
        sys.exit(1)


@app.command
def runs(
    folder: Path = Path("runs"),
    /,
    *,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List the runs below a folder: how far each has come, whether it goes on, and its last epoch's test accuracy.

    Args:
        folder: where to look.
        out: Draw the runs' curves beside each other into this file, PNG or HTML.
        json: Print one JSON list for machines instead.
    """
    from pursuitnet.program import runs as listing

    if out is not None:
        check_file(out)
    found = listing.find_runs(folder)
    if json:
        print(listing.to_json(found))
    else:
        print("\n".join(listing.table(found)) if found else f"no runs below {folder}")
    if out is not None:
        from pursuitnet.program import report

        print(report.write_comparison(out, found), file=sys.stderr if json else sys.stdout)
    elif found and not json:
        print(f"\ntheir curves beside each other: pursuitnet runs {folder} --out runs.html (or .png)")


app.command(learn)
app.command(predict)


@app.command
def models() -> None:
    """List the networks of the paper, and those that return images; other depths of a family exist too."""
    from pursuitnet.networks import list_models

    print("\n".join(list_models()))
    print("\nto denoise, segment or regress images:", *list_models(task="image"), sep="\n")


def main() -> None:
    """Run the program; what a user got wrong ends in one line and exit code 2, a closed pipe without a word."""
    threads.set_thread_defaults()  # before PyTorch is loaded
    warnings.formatwarning = lambda message, *_, **__: f"pursuitnet: {message}\n"
    streams.prepare()
    try:
        code = _run()
        if code == 0:  # what has failed has been said once
            sys.stdout.flush()
    except BrokenPipeError:
        code = streams.GONE
    except OSError as error:  # of the streams themselves, such as a full disk behind them
        code = _fail(str(error))
    streams.discard_output()
    sys.exit(code)


def _run() -> int:
    """Run the program; return its exit code."""
    try:
        app(exit_on_error=False, print_error=False)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        raise
    except CycloptsError as error:
        return _fail(hints.error_line(error))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return _fail(
            "interrupted; what was done is kept: train and learn go on with --out DIR --resume, "
            "reproduce when it is called again",
            code=130,
        )


def _fail(message: str, code: int = 2) -> int:
    """Say what went wrong, if anyone listens; return the exit code."""
    with suppress(OSError):
        print(f"pursuitnet: {message}", file=sys.stderr, flush=True)
    return code


def _fetch(recipe: Recipe) -> None:
    """Fetch what is missing of a recipe's data set."""
    from pursuitnet import data

    for split in data.SPLITS:
        data.load(**recipe.images(), split=split, download=True)


def _into(run: Path, out: Path | None, *names: str) -> Path:
    """Return the folder that what is found of a run goes to, which can be written into; the run's own by default.

    What is found of a pretrained network goes below runs/, so that no folder takes its name.
    """
    from pursuitnet.program.sharing.loading import shipped_with

    if out is None and shipped_with(run):
        out = Path("runs", f"pretrained-{run}")
    folder = run if out is None else out
    if out is not None or run.is_dir():  # where there is no run, that is what is to be said
        check_folder(folder, *names)
    return folder


def _percent(record: "Record") -> str:
    return f"{100 * record['test_accuracy']:.2f} %"


def _of_images(record: "Record") -> str:
    return f"Dice {record['test_dice']:.4f}" if "test_dice" in record else f"PSNR {record['test_psnr']:.2f} dB"


def _free_folder(recipe: Recipe) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, runs/NAME-3, … that does not exist."""
    name = f"{recipe.data}-{recipe.model}-seed{recipe.seed}"
    number = 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder
