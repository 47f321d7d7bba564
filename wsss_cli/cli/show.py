"""`wsss show`: one image as several stages saw it, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.console import write_line
from wsss_cli.errors import OutputMismatchError
from wsss_cli.text import show as shown

HEIGHT = 320


def show(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE_ID", help="Its path below its folder, without suffix.")
    ],
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folders of maps or masks, one column each.")
    ],
    truth: Annotated[Path | None, typer.Option(help="Folder of true masks, for a column of its own.")] = None,
    height: Annotated[int, typer.Option(min=16, max=4096, help="Of each picture, in pixels.")] = HEIGHT,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")] = Path("show.png"),
    overwrite: shared.Overwrite = False,
    quiet: shared.Quiet = False,
    config_file: shared.ConfigFile = None,  # noqa: ARG001 - read before this function is called
) -> None:
    """Put an image, its truth, and what stages made of it side by side."""
    if out.exists() and not overwrite:
        raise OutputMismatchError(f"{shown(out)} is there already. Pass --overwrite or another --out.")
    from wsss_cli.stages import show as stage

    stage.one(image, folders, out, truth=truth, height=height)
    if not quiet:
        write_line(f"{shown(out)}: image{', truth' if truth else ''}, {', '.join(map(shown, folders))}")
