"""Write the API pages of every public module: `python docs/api.py FOLDER` (or `make docs`)."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

PACKAGES = ("seqsched", "sim", "traces", "real", "plots")


def public_modules() -> list[str]:
    """Names of all modules of the project that have no leading underscore, packages included."""
    names = []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        found = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
        names += [package, *(name for name in found if not name.rpartition(".")[2].startswith("_"))]
    return names


def resolve(name: str) -> None:
    """Import a module and the public names it would import on first use, which pdoc does not do by itself."""
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        setattr(module, public, getattr(module, public))


def write(folder: Path) -> None:
    """One page a module, an index and a search."""
    import pdoc

    names = public_modules()
    for name in names:
        resolve(name)
    pdoc.pdoc(*names, output_directory=folder)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    sys.path[:0] = [str(root), str(root / "sim" / "facade")]
    write(Path(sys.argv[1]))
