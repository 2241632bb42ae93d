"""What happens to arguments between the command line and a command: checks, ~, and options that a file fills in."""

import json
from pathlib import Path
from typing import Any, get_args

from cyclopts import App
from cyclopts.argument import ArgumentCollection, update_argument_collection

from pursuitnet.program.recipe import NETWORK, Recipe, values_of
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.utils.paths import expanded


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse a fraction where a whole number is expected, which would be rounded."""
    for argument in arguments:
        kinds = {argument.hint, *get_args(argument.hint)}
        if int in kinds and float not in kinds:
            for token in argument.tokens:
                if _is_fraction(token.value):
                    raise ValueError(f"{argument.name} is {token.value}; expected a whole number")


def _is_fraction(text: str) -> bool:
    try:
        return not float(text).is_integer()
    except ValueError:  # no number, which is refused elsewhere
        return False


def fill_from_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the options of `train` that are not given with those of --recipe."""
    names = [token.value for argument in arguments if "--recipe" in argument.names for token in argument.tokens]
    if commands == ("train",) and names:
        values = {name: value for name, value in values_of(names[-1]).items() if value is not None}
        update_argument_collection(values, names[-1], arguments, root_keys=(), allow_unknown=False)


def expand_home(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Expand ~ in every option and argument that is a path; the shell leaves it as it is in --out=~/run."""
    for argument in arguments:
        if Path in (argument.hint, *get_args(argument.hint)):
            argument.tokens[:] = [token.evolve(value=str(expanded(token.value))) for token in argument.tokens]


def fill_from_run(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the options of `train --resume` that are not given with those of the run, so that given ones stand out."""
    given = {argument.name: argument for argument in arguments if argument.tokens}
    if commands == ("train",) and "--out" in given and "--resume" in given and given["--resume"].convert():
        path = RunFolder(given["--out"].convert()).recipe
        values = {name: value for name, value in _recipe_fields(path).items() if value is not None}
        update_argument_collection(values, str(path), arguments, root_keys=(), allow_unknown=False)


def fill_from_init(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the network's options of `train --init` that are not given with those of the run it starts from."""
    names = [token.value for argument in arguments if "--init" in argument.names for token in argument.tokens]
    if commands == ("train",) and names:
        fields = _init_fields(expanded(names[-1]))
        values = {name: value for name, value in fields.items() if name in NETWORK and value is not None}
        update_argument_collection(values, names[-1], arguments, root_keys=(), allow_unknown=False)


def _init_fields(path: Path) -> dict[str, Any]:
    """Return the fields of the recipe of a run, of its weights or of a pretrained network; none if it is neither."""
    if RunFolder(path).recipe.is_file():
        return _recipe_fields(RunFolder(path).recipe)
    from pursuitnet.program.sharing.loading import trained

    try:
        return trained(path).recipe.to_json()
    except (OSError, ValueError):  # reported when the weights are loaded
        return {}


def _recipe_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a run's recipe; none if it is not one, which is said when the run is read."""
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8"))).to_json()
    except (OSError, ValueError, RecursionError):
        return {}


STEPS = (check_whole_numbers, fill_from_recipe, expand_home, fill_from_run, fill_from_init)
"""All of it, in this order."""
