"""`wsss run`: every stage after another under one folder."""

import typer


def run(ctx: typer.Context) -> None:
    """Run the whole pipeline."""
