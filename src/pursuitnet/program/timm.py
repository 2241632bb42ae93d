"""timm makes and lists the networks of this library once both are imported, in either order. Loads neither."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODELS = "timm.models"
"""The module of timm that models register themselves with."""


def watch() -> None:
    """Register the networks with timm if it is loaded, or as soon as it will be; do nothing otherwise."""
    if MODELS in sys.modules:
        _register(sys.modules[MODELS])
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(MetaPathFinder):
    """Lets timm be found as ever, and registers the networks when it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODELS:
            return None
        sys.meta_path.remove(self)  # who looks for it now is not to ask here again
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run: Callable[[ModuleType], None] = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register(models: ModuleType) -> None:
    """Register every listed network; a timm that takes none is left as it is, with a warning."""
    try:
        from pursuitnet.networks import list_models

        for name in list_models():
            models.register_model(_maker(name))
    except Exception as error:  # whatever it is, it must not keep anyone from importing timm
        warnings.warn(f"the networks of pursuitnet are not registered with timm: {error!r}", stacklevel=2)


def _maker(name: str) -> Callable[..., Any]:
    """Return a function as timm calls it, of the network's name."""

    def make(
        pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, **choices: Any
    ) -> Any:
        from pursuitnet.networks import create_model

        choices.pop("cache_dir", None)  # timm's own
        return create_model(name, pretrained=pretrained, **choices)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"Return {name}; see ``pursuitnet.create_model``."
    return make
