"""What a training run is, as frozen data; imports nothing heavy, so that ``--help`` is quick."""

from pursuitnet.program.recipe.fields import RENAMED
from pursuitnet.program.recipe.named import RECIPES
from pursuitnet.program.recipe.recipe import GIVEN, MACHINE_FIELDS, NETWORK, Recipe, values_of

__all__ = ["GIVEN", "MACHINE_FIELDS", "NETWORK", "RECIPES", "RENAMED", "Recipe", "values_of"]
