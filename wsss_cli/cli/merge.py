"""`wsss merge`: folders filled in shards in, the same folders as one run leaves them out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.console import SOME_FAILED, Console
from wsss_cli.config import item_limit


def merge(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Folders written with --shard, or a folder that holds some."),
    ],
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
    config_file: shared.ConfigFile = None,  # noqa: ARG001 - read before this function is called
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Make one folder of its shards, the same as a run without them leaves."""
    item_limit("--allow-failed", allow_failed, 0)  # refuse a wrong one before any work
    from wsss_cli.stages import merge as stage

    with Console(quiet=quiet, verbose=verbose) as console:
        summaries = stage.run(folders, console)
    if as_json:
        console.write_jsons(summaries)
    failed = False
    for summary in summaries:
        if not as_json:
            console.show_summary(summary)
        counts = summary.counts
        if counts and counts.failed > (item_limit("--allow-failed", allow_failed, counts.total) or 0):
            console.show_failed(counts.failed, counts.total, summary.out, training=False)
            failed = True
    if failed:
        raise typer.Exit(SOME_FAILED)
