"""Let timm create and list the networks of this library once both are imported, in either order. Loads neither."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODELS = "timm.models"
"""The module of timm in which models are registered."""


def register_on_import() -> None:
    """Register the networks with timm now if it is loaded, or else when it is loaded."""
    if MODELS in sys.modules:
        _register(sys.modules[MODELS])
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(MetaPathFinder):
    """Finds timm as usual, and registers the networks after it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODELS:
            return None
        sys.meta_path.remove(self)  # so that the search below does not come back here
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run: Callable[[ModuleType], None] = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register(models: ModuleType) -> None:
    """Register every listed network; if timm does not accept them, warn and go on."""
    try:
        from pursuitnet.networks import list_models

        for name in list_models():
            models.register_model(_factory(name))
    except Exception as error:  # whatever it is, importing timm must not fail because of it
        warnings.warn(f"the networks of pursuitnet are not registered with timm: {error!r}", stacklevel=2)


def _factory(name: str) -> Callable[..., Any]:
    """Return a factory function with timm's signature and the network's name."""

    def make(
        pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, **choices: Any
    ) -> Any:
        from pursuitnet.networks import create_model

        choices.pop("cache_dir", None)  # timm's own
        return create_model(name, pretrained=pretrained, **choices)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"Return {name}; see ``pursuitnet.create_model``."
    return make
