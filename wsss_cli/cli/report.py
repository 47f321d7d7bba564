"""`wsss report`: stage folders in, one HTML page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.console import Console, write_line
from wsss_cli.errors import OutputMismatchError
from wsss_cli.text import show

IMAGES = 60


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Stage folders, or the folder of 'wsss run' that holds them."),
    ],
    truth: Annotated[Path | None, typer.Option(help="Folder of true masks, to show them beside.")] = None,
    images: Annotated[
        int,
        typer.Option(
            min=0, max=2000, help="How many images the gallery shows: those with the lowest scores."
        ),
    ] = IMAGES,
    title: Annotated[str, typer.Option(help="Headline of the page.")] = "wsss report",
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path("report.html"),
    overwrite: shared.Overwrite = False,
    quiet: shared.Quiet = False,
    config_file: shared.ConfigFile = None,  # noqa: ARG001 - read before this function is called
) -> None:
    """Put settings, curves, tables, pictures and failures into one page that needs no network."""
    if out.exists() and not overwrite:
        raise OutputMismatchError(f"{show(out)} is there already. Pass --overwrite or another --out.")
    from wsss_cli.stages import report as stage

    with Console(quiet=quiet) as reporter:
        held = stage.run(folders, out, reporter, truth=truth, images=images, title=title)
    if not quiet:
        write_line(f"{show(out)}: " + ", ".join(f"{count} {what}" for what, count in held.items()))
