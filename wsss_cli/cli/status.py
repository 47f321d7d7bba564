"""`wsss status`: stage folders in, how far each is, and what of it is damaged, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.console import Console, write_error
from wsss_cli.errors import OutputMismatchError


def status(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Stage folders, or the folder of 'wsss run' that holds them."),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and hold it against its recorded hash.")
    ] = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every damaged file.")] = False,
    config_file: shared.ConfigFile = None,  # noqa: ARG001 - read before this function is called
) -> None:
    """Say how far stage folders are; ends with 7 if a file is not what was written."""
    from wsss_cli.stages import status as stage

    with Console(quiet=quiet, verbose=verbose) as console:
        found = stage.run(folders, console, verify=verify)
    console.write_status(
        [(str(f.path), f.stage, f.status, f.counts, f.damaged, f.shards) for f in found], as_json=as_json
    )
    damaged = sum(len(folder.damaged) for folder in found)
    if damaged:
        write_error(
            OutputMismatchError.code,
            f"Files changed or missing: {damaged}. Run the commands that made them again: "
            "each redoes what it can, and says so where it cannot.",
        )
        raise typer.Exit(OutputMismatchError.exit_code)
