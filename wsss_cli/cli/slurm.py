"""`wsss slurm`: commands in, on stdout a script that hands them to Slurm as array jobs; nothing is submitted here."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from wsss_cli import __version__
from wsss_cli.cli import options as shared
from wsss_cli.cli.console import print_text
from wsss_cli.config import (
    CRF_PRESETS,
    choose_preset,
    crf_settings,
    item_limit,
    require,
    resolve,
    whole_format,
    whole_refiner,
    whole_stream,
)
from wsss_cli.config.sharding import WHOLE
from wsss_cli.errors import UsageError
from wsss_cli.exports import EXPORTERS
from wsss_cli.text import show

NEXT = "+"  # between two commands
END = "END_OF_JOB"
ALLOW_PARTIAL = "--allow-partial"
CONFIG = "--config"
SECONDS_TO_STOP = 120  # between SIGTERM and the time limit: a command stops once its item is done
SCRIPT = """\
#!/usr/bin/env bash
# {title}
# Made by wsss {version}. Running it submits the jobs; they start in the folder in which it is run.
set -euo pipefail
mkdir -p slurm
submit() {{
  sbatch --parsable --open-mode=append --kill-on-invalid-dep=yes "$@" | cut -d ';' -f 1
}}
{jobs}"""
JOB = """
job=$(submit {options} <<'{end}'
#!/usr/bin/env bash
exec {command}
{end}
)
echo "{name}: job $job"
"""


@dataclass(frozen=True)
class Resources:
    """What is asked of Slurm for a command; None leaves it to the site's defaults."""

    array: str | None = None
    concurrent: str | None = None
    partition: str | None = None
    time: str | None = None
    gpus: str | None = None
    cpus: str | None = None
    memory: str | None = None
    account: str | None = None
    allow_failed: str | None = None

    def __post_init__(self) -> None:
        for name in ("array", "concurrent", "cpus"):
            value = getattr(self, name)
            good = value is None or re.fullmatch(r"[1-9][0-9]{0,6}", value, re.ASCII)
            require(bool(good), f"--{name} is '{value}'; it must be a number of at least 1.")
        item_limit("--allow-failed", self.allow_failed or "", 0)

    def asked(self, *, merging: bool) -> Iterator[str]:
        """The options of sbatch; to merge takes neither a GPU nor more than one core."""
        names = {"partition": "partition", "account": "account", "time": "time"}
        if not merging:
            names |= {"gpus": "gpus", "cpus": "cpus-per-task", "memory": "mem"}
        for name, option in names.items():
            if getattr(self, name) is not None:
                yield f"--{option}={getattr(self, name)}"


@dataclass(frozen=True)
class Part:
    """One command, as it is to be typed, with what it needs; `out` is the folder that its shards are merged in."""

    name: str
    words: tuple[str, ...]
    needs: Resources
    out: str
    cut: bool  # whether it has --shard
    settings: Sequence[str]  # --config and the file, if there is one


def slurm(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...",
            help="A command with its options, as without 'slurm'; a + stands between one and the next.",
        ),
    ],
    array: Annotated[
        str | None,
        typer.Option(metavar="N", help="Cut commands of single images into N shards, a task each."),
    ] = None,
    concurrent: Annotated[
        str | None, typer.Option(metavar="M", help="At most M tasks of an array at a time.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Of each job.")] = None,
    time: Annotated[str | None, typer.Option(help="Limit of each job, such as 4:00:00.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs of each task.")] = None,
    cpus: Annotated[str | None, typer.Option(help="Cores of each task.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of each task, such as 16G.")] = None,
    account: Annotated[str | None, typer.Option(help="Who is charged.")] = None,
    after: Annotated[
        str | None, typer.Option(metavar="JOBID", help="Begin once this job has ended well.")
    ] = None,
    allow_failed: Annotated[
        str | None,
        typer.Option(metavar="N|P%", help="Go on to the next command when no more items than this failed."),
    ] = None,
    config_file: shared.ConfigFile = None,  # noqa: ARG001 - handed on by _settings
) -> None:
    """Print a script that runs commands on a Slurm cluster, each in shards and after the one before."""
    general = Resources(array, concurrent, partition, time, gpus, cpus, memory, account, allow_failed)
    require(after is None or after.isdecimal(), f"--after is '{after}'; it must be the number of a job.")
    for word in words:
        require(word.isprintable(), f"'{show(word)}' cannot stand in a script. Rename the file.")
    parts: list[Part] = []
    for group in _groups(words):
        parts.append(_part(ctx, group, general, partial=bool(parts and parts[-1].needs.allow_failed)))
    for part in parts:
        values = [value for value in dataclasses.astuple(part.needs) if value is not None]
        require(all(map(str.isprintable, values)), f"An option of '{part.name}' holds what no script can.")
    print_text(_script(parts, after))


def _groups(words: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for word in words:
        if word == NEXT:
            groups.append([])
        else:
            groups[-1].append(word)
    require(all(groups), f"A command is missing before or after '{NEXT}'.")
    return groups


def _part(ctx: typer.Context, words: Sequence[str], general: Resources, *, partial: bool) -> Part:
    """One command; its own parser says whether it would run. `partial`: the one before may leave failed items."""
    group: Any = ctx.find_root().command
    name, command, rest = group.resolve_command(ctx.parent, list(words))
    require(name != ctx.info_name, f"'wsss {name}' prints a script; it is none of the commands to run.")
    own = {option for parameter in command.params for option in parameter.opts}
    cut = "--shard" in own
    needs, rest = _needs(rest, keep=set() if cut else own)
    rest += _settings(ctx, own, rest)
    if partial and ALLOW_PARTIAL in own and ALLOW_PARTIAL not in rest:
        rest = [*rest, ALLOW_PARTIAL]
    require(
        cut or needs.get("array") is None, f"'wsss {name}' cannot be cut into shards. Leave out its --array."
    )
    both = dataclasses.replace(general, **needs)
    with command.make_context(name, [*rest], parent=ctx.parent) as inner:
        values: dict[str, Any] = dict(inner.params)
        typed = _is_typed(inner, "shard")
    require(not typed and values.get("shard") in (None, WHOLE), "--shard is for Slurm to say. Leave it out.")
    why = _why_whole(name, values) if cut and both.array is not None else ""
    require(not why or needs.get("array") is None, f"No array can be made of {why}. Leave out its --array.")
    out = values.get("out") or f"export-{values.get('to')}"
    path = values.get("config_file")
    settings = (CONFIG, str(path)) if path is not None else ()
    needed = both if cut and not why else dataclasses.replace(both, array=None)
    return Part(name, tuple(rest), needed, str(out), cut, settings)


def _settings(ctx: typer.Context, own: Collection[str], words: Sequence[str]) -> list[str]:
    """The --config that was given to this command, for one that takes it and has none."""
    given = any(word.partition("=")[0] == CONFIG for word in words)
    path = ctx.params.get("config_file")
    return [CONFIG, str(path)] if path is not None and CONFIG in own and not given else []


def _is_typed(inner: typer.Context, name: str) -> bool:
    source = inner.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _why_whole(name: str, values: Mapping[str, Any]) -> str:
    """What keeps these settings of a command that has --shard from being cut; UsageError where others should be."""
    require(
        values.get("executor") != "ray",
        "--executor ray cuts the images into shards itself. Leave out --array.",
    )
    require(not values.get("dry_run"), "--dry-run leaves no shards to merge. Leave out --array.")
    if name == "refine":
        return whole_refiner(values["method"])
    if name == "export":
        return whole_format(values["to"], apart=EXPORTERS.load(values["to"]).FORM.apart)
    if name == "stream":
        crf, given = crf_settings(values["crf_preset"], values["crf_options"])
        why = whole_stream(resolve(crf, choose_preset(CRF_PRESETS, crf.preset), given))
        require(not why, why)
    return ""


def _needs(words: Sequence[str], keep: set[str]) -> tuple[dict[str, str], list[str]]:
    """What the words ask of Slurm, and the other words; flags in `keep` are the command's own."""
    flags = {"--" + field.name.replace("_", "-"): field.name for field in dataclasses.fields(Resources)}
    found: dict[str, str] = {}
    rest: list[str] = []
    given = iter(words)
    for word in given:
        flag, equals, value = word.partition("=")
        if flag not in flags or flag in keep:
            rest.append(word)
            continue
        if not equals and (value := next(given, "")) == "":
            raise UsageError(f"{flag} needs a value.")
        found[flags[flag]] = value
    return found, rest


def _script(parts: Sequence[Part], after: str | None) -> str:
    jobs, before = [], after
    for part in parts:
        jobs.append(_job(part, before))
        before = '"$job"'
        if part.needs.array is not None:
            jobs.append(_merge(part))
    named = [p.name + (f" in {p.needs.array} shards" if p.needs.array else "") for p in parts]
    title = f"Hands to Slurm: {', then '.join(named)}."
    return SCRIPT.format(title=title, version=__version__, jobs="".join(jobs))


def _job(part: Part, after: str | None) -> str:
    """The job of a command: an array with a task for each shard, or a single one."""
    options = [f"--job-name=wsss-{part.name}"]
    command = ["wsss", part.name, *part.words]
    end = ""
    if part.needs.array is not None:
        most = f"%{part.needs.concurrent}" if part.needs.concurrent else ""
        options += [f"--array=1-{part.needs.array}{most}", "--output=slurm/%x-%A_%a.log"]
        # Failed items of all shards are judged together, when these are merged.
        end = f' --shard "$SLURM_ARRAY_TASK_ID/{part.needs.array}" --allow-failed 100%'
    else:
        options.append("--output=slurm/%x-%j.log")
        command += ["--shard", "none"] if part.cut else []
        if part.needs.allow_failed and part.cut:
            command += ["--allow-failed", part.needs.allow_failed]
    options += ["--requeue", f"--signal=B:TERM@{SECONDS_TO_STOP}", *part.needs.asked(merging=False)]
    return _submitted(part.name, options, after, shlex.join(command) + end)


def _merge(part: Part) -> str:
    options = [f"--job-name=wsss-merge-{part.name}", "--output=slurm/%x-%j.log", "--requeue"]
    command = ["wsss", "merge", part.out, *part.settings]
    if part.needs.allow_failed:
        command += ["--allow-failed", part.needs.allow_failed]
    options += part.needs.asked(merging=True)
    return _submitted(f"merge of {part.name}", options, '"$job"', shlex.join(command))


def _submitted(name: str, options: Sequence[str], after: str | None, command: str) -> str:
    words = shlex.join(options) + (f" --dependency=afterok:{after}" if after else "")
    return JOB.format(options=words, end=END, command=command, name=name)
