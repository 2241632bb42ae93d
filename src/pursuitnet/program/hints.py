"""What the program says of a command line that it does not understand, with what is likely meant."""

import os
from itertools import chain

from cyclopts import CycloptsError
from cyclopts.exceptions import UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from pursuitnet.program.recipe import RECIPES
from pursuitnet.utils.nearest import did_you_mean

EVERYWHERE = ("--version", "--help")


def error_line(error: CycloptsError) -> str:
    """Return an error of the command line in one line."""
    if isinstance(error, UnknownOptionError):
        return _option(error)
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        return _command(error, error.unused_tokens[0])
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _argument(error, error.unused_tokens[0])
    return " ".join(str(error).split())


def _option(error: UnknownOptionError) -> str:
    given = (error.token.keyword or error.token.value).split("=")[0]
    names = chain.from_iterable(argument.names for argument in error.argument_collection if argument.parse)
    return f"unknown option {given}{did_you_mean(given, [*names, *EVERYWHERE], _listed(error))}"


def _command(error: CycloptsError, given: str) -> str:
    if given.startswith("-"):
        return f"unknown option {given}{did_you_mean(given, EVERYWHERE, _listed(error))}"
    commands = [name for name in error.app or () if not name.startswith("-")]
    return f"unknown command {given}{did_you_mean(given, commands, '.')} There are {', '.join(commands)}"


def _argument(error: CycloptsError, given: str) -> str:
    """Say which option an argument belongs to, if it can be known."""
    option = _owner(given) if tuple(error.command_chain or ()) == ("train",) else ""
    return f"unexpected argument {given!r}" + (f"; did you mean {option} {given}?" if option else _listed(error))


def _owner(given: str) -> str:
    """Return the option of `train` that takes this: a recipe, a network, a data set, or where its files are."""
    from pursuitnet.data import NAMES
    from pursuitnet.networks import list_models

    if given in RECIPES or given.endswith((".toml", ".yaml", ".yml", ".json")):
        return "--recipe"
    if given in NAMES or given in list_models() + list_models(task="image"):
        return "--data" if given in NAMES else "--model"
    return "--data-dir" if os.sep in given or os.path.isdir(given) else ""


def _listed(error: CycloptsError) -> str:
    """Return where the options are listed."""
    return f"; {' '.join(['pursuitnet', *(error.command_chain or ()), '--help'])} lists what there is"
