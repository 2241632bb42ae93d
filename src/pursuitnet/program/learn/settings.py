"""Settings of ``pursuitnet learn``."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Settings of ``pursuitnet learn``; see the command. ``atoms`` and ``size`` have a number for each layer."""

    atoms: tuple[int, ...] = (100,)
    size: tuple[int, ...] = (11,)
    beta: float = 0.2
    atom_nonzeros: int | None = None
    nonnegative: bool = False
    robust: bool = False
    online: bool = False
    color: bool = False
    prepare: str = "contrast"
    iterations: int | None = None
    tol: float = 1e-4
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, values, least in (("atoms", self.atoms, 1), ("size", self.size, 1), ("seed", (self.seed,), 0)):
            if min(values) < least:
                raise ValueError(f"{name} is {_text(values)}; expected at least {least}")
        if self.robust and self.size[0] % 2 == 0:
            raise ValueError(
                f"size is {_text(self.size)}; expected an odd number with --robust, where codes have the size of the "
                "images"
            )
        if self.online and self.iterations is not None:
            raise ValueError("--online uses every image once; leave out --iterations")
        self._check_layers()

    def _check_layers(self) -> None:
        if len(self.atoms) != len(self.size):
            raise ValueError(
                f"atoms is {_text(self.atoms)} and size {_text(self.size)}; expected one of each for every layer"
            )
        if self.robust and len(self.size) > 1:
            raise ValueError(
                "--robust learns the identity part of one layer; leave it out, or give one number of atoms"
            )
        if self.atom_nonzeros is not None and (len(self.size) == 1 or self.atom_nonzeros < 1):
            raise ValueError(
                f"atom-nonzeros is {self.atom_nonzeros}; expected at least 1, and several layers, such as --atoms 32,16"
            )

    @property
    def effective_size(self) -> int:
        """Height and width of the deepest atoms in the images."""
        return sum(self.size) - len(self.size) + 1

    def fixed(self) -> dict[str, Any]:
        """Return the settings that must not change on resume, as JSON has them: all but device and when to stop."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("device", "iterations", "tol")}
        return kept | {"atoms": _text(self.atoms), "size": _text(self.size)}


def per_layer(name: str, text: str) -> tuple[int, ...]:
    """Return the numbers of an option, one for each layer, such as "32,16".

    Raises:
        ValueError: if they are none.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name} is {text!r}; expected a whole number, or one for each of several layers, such as 32,16"
        ) from None


def _text(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))
