"""The commands, in pipeline order; the module of one is imported when that one is called.

So that `wsss --help` costs little more than the libraries that print it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

EPILOG = (
    "Every option has a variable: --batch-size is WSSS_BATCH_SIZE. "
    "The command line wins over it, and it wins over wsss.toml."
)
COMMANDS = {  # name -> the first line of its help
    "train-cls": "Train the classifier that can say where.",
    "cams": "Localise: one file of class maps an image.",
    "refine": "Carry the maps over whole objects, up to their edges.",
    "crf": "Snap the maps to the edges of the image.",
    "pseudo-labels": "Turn maps into masks with an ignore band.",
    "stream": "From image to mask in one process: cams, crf and pseudo-labels with no maps on the disk.",
    "train-seg": "Learn to segment from the pseudo-labels.",
    "predict": "Segment any image.",
    "eval": "Score masks, predictions or maps against the truth.",
    "run": "Run the whole pipeline under one folder; the same command again resumes.",
    "export": "Hand masks over to another tool, in its format.",
    "import-weights": "Turn a published checkpoint into one that the other commands take.",
    "import-cams": "Turn another pipeline's class maps into a cams folder.",
    "doctor": "Look for what would go wrong with this machine, these images, these labels; "
    "ends with 4 if something would.",
    "show": "Put an image, its truth, and what stages made of it side by side.",
    "report": "Put settings, curves, tables, pictures and failures into one page that needs no network.",
    "merge": "Make one folder of its shards, the same as a run without them leaves.",
    "slurm": "Print a script that runs commands on a Slurm cluster, each in shards and after the one before.",
    "status": "Say how far stage folders are; ends with 7 if a file is not what was written.",
}
# The words of a command are its own, also where they look like options of this one.
_WORDS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_SETTINGS = {"slurm": _WORDS}
_FUNCTIONS = {"eval": "evaluate"}  # where a built-in has the command's own name


class Commands(TyperGroup):
    """The group `wsss`: it lists every command, and builds the one that is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As in Click, with the whole command for its stand-in."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else build(str(name)), rest

    def every(self) -> list[Any]:
        """All commands, built."""
        return [build(name) for name in COMMANDS]


def function(name: str) -> Callable[..., None]:
    """What runs the command."""
    module = name.replace("-", "_")
    result: Callable[..., None] = getattr(
        import_module(f"wsss_cli.cli.{module}"), _FUNCTIONS.get(name, module)
    )
    return result


def build(name: str) -> Any:
    """The Click command, each option with its `WSSS_*` variable."""
    app = typer.Typer()
    app.callback()(lambda: None)  # else the only command of an application is the application
    command = _taking_addresses(function(name))
    app.command(name, epilog=EPILOG, context_settings=_SETTINGS.get(name))(command)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        if parameter.param_type_name == "option":
            parameter.envvar = "WSSS_" + parameter.opts[0].lstrip("-").replace("-", "_").upper()
            parameter.show_envvar = False
    unmark_flags(command)
    return command


def _taking_addresses(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with `s3://bucket/a` read as an address wherever it takes a path; Typer would make s3:/bucket/a."""
    from wsss_cli.storage.address import location  # here, as the list of commands needs none

    hints = get_type_hints(command, include_extras=True)
    for hint in hints.values():
        if "Path" in str(get_args(hint)[:1]):
            get_args(hint)[1].parser = location
    command.__annotations__ = hints  # those that were changed: text would be looked up again
    return command


def unmark_flags(command: Any) -> None:
    """Without this --help says <bool> of flags, which take nothing."""
    for parameter in (*command.params, command.get_help_option(typer.Context(command))):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
