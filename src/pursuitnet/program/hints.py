"""Errors of the command line in one line, with suggestions of what was likely meant."""

import os
from itertools import chain
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from cyclopts import CycloptsError
from cyclopts.exceptions import CoercionError, UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from pursuitnet.program.recipe import RECIPES
from pursuitnet.utils.nearest import did_you_mean

EVERYWHERE = ("--version", "--help")


def error_line(error: CycloptsError) -> str:
    """Return the message of an error of the command line, in one line."""
    if isinstance(error, UnknownOptionError):
        return _unknown_option(error)
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        return _unknown_command(error, error.unused_tokens[0])
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _unexpected_argument(error, error.unused_tokens[0])
    if isinstance(error, CoercionError) and error.argument is not None and error.token is not None:
        name, choices = error.argument.name, _choices(error.argument.hint)
        if choices:
            return f"{name} is {error.token.value!r}; expected {choices}"
    return " ".join(str(error).split())


def _choices(hint: Any) -> str:
    """Return the values of an option that is a whole number or one of a few words, as words; nothing for others."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return " or ".join(["a whole number", *words]) if int in kinds and words else ""


def _unknown_option(error: UnknownOptionError) -> str:
    given = (error.token.keyword or error.token.value).split("=")[0]
    names = chain.from_iterable(argument.names for argument in error.argument_collection if argument.parse)
    return f"unknown option {given}{did_you_mean(given, [*names, *EVERYWHERE], _see_help(error))}"


def _unknown_command(error: CycloptsError, given: str) -> str:
    if given.startswith("-"):
        return f"unknown option {given}{did_you_mean(given, EVERYWHERE, _see_help(error))}"
    commands = [name for name in error.app or () if not name.startswith("-")]
    return f"unknown command {given}{did_you_mean(given, commands, '.')} There are {', '.join(commands)}"


def _unexpected_argument(error: CycloptsError, given: str) -> str:
    """Return the message, with the option that the argument belongs to if that can be inferred."""
    option = _option_for(given) if tuple(error.command_chain or ()) == ("train",) else ""
    return f"unexpected argument {given!r}" + (f"; did you mean {option} {given}?" if option else _see_help(error))


def _option_for(given: str) -> str:
    """Return the option of `train` that takes this: a recipe, a network, a data set, or the folder of its files."""
    from pursuitnet.data import NAMES
    from pursuitnet.networks import list_models

    if given in RECIPES or given.endswith((".toml", ".yaml", ".yml", ".json")):
        return "--recipe"
    if given in NAMES or given in list_models() + list_models(task="image"):
        return "--data" if given in NAMES else "--model"
    return "--data-dir" if os.sep in given or os.path.isdir(given) else ""


def _see_help(error: CycloptsError) -> str:
    """Return where the options are listed, as the end of a message."""
    return f"; {' '.join(['pursuitnet', *(error.command_chain or ()), '--help'])} lists what there is"
