"""Folders as people name them."""

from __future__ import annotations

from pathlib import Path

import typer


def absolute(path: Path, option: str) -> Path:
    """The path from the root, with the home folder for ~.

    Raises:
        typer.BadParameter: there is no home folder, as in a container whose user has no name.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise typer.BadParameter(
            f"{option} {path} begins with a home folder, and this user has none: give {option} a"
            " full path, or set HOME"
        ) from None
