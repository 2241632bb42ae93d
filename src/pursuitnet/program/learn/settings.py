"""Settings of ``pursuitnet learn``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of ``pursuitnet learn``; see the command."""

    atoms: int = 100
    size: int = 11
    beta: float = 0.2
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
        for name, least in (("atoms", 1), ("size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.robust and self.size % 2 == 0:
            raise ValueError(
                f"size is {self.size}; expected an odd number with --robust, where codes have the size of the images"
            )
        if self.online and self.iterations is not None:
            raise ValueError("--online uses every image once; leave out --iterations")
