"""A finished stage folder, as the next stage reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data import shards
from wsss_cli.data.files import read_regular_file, sha256
from wsss_cli.data.journal import Item
from wsss_cli.errors import ItemError, OutputMismatchError, RejectedInputError
from wsss_cli.text import show

MAPS = ("cams", "refine", "crf")  # the stages whose items are class maps
MASKS = ("pseudo-labels", "stream", "predict")  # and those whose items are masks

_MAKE_AGAIN = "Make it again: run the command that made it, with --overwrite."


@dataclass(frozen=True)
class StageFolder:
    """A stage's folder: its manifest, its finished items, and the failed ones."""

    path: Path
    stage: str
    manifest: dict[str, Any]
    classes: tuple[str, ...]
    items: Mapping[str, Item]  # finished ones, sorted by id
    failures: dict[str, str]
    fingerprint: str  # of every item line and whole file
    recipe: str  # of stage, configuration, classes and inputs: unchanged when more items are added


def read_run(folder: Path, *stages: str) -> StageFolder:
    """A finished stage folder, made by one of `stages` (any, if none is named).

    RejectedInputError: no stage folder, another command's, or still running. OutputMismatchError: damaged.
    """
    manifest = manifests.read_manifest(folder, RejectedInputError, _MAKE_AGAIN)
    if manifest is None:
        shards.refuse_input(folder)
        raise RejectedInputError(
            f"{show(folder)} is not a stage folder: it has no {manifests.NAME}."
            + (f" This needs a folder{_made_by(stages)}" if stages else "")
        )
    name, stage = show(folder.name or str(folder)), manifest["stage"]
    if stages and stage not in stages:
        raise RejectedInputError(
            f"{name} was made by {manifests.maker(stage)}; this needs a folder{_made_by(stages)}"
        )
    if manifest["status"] == "running":
        raise RejectedInputError(
            f"{name} is not finished. Run the same {manifests.command(stage)} command again first."
        )
    journal = manifests.read_whole_journal(folder, manifest, remedy=_MAKE_AGAIN)
    return StageFolder(
        path=folder,
        stage=stage,
        manifest=manifest,
        classes=tuple(manifest["classes"]),
        items=journal.done.in_order(),
        failures=journals.failure_texts(journal),
        fingerprint=journals.fingerprint(journal, manifest["extras"]),
        recipe=manifests.recipe(manifest),
    )


def refuse_partial(folder: StageFolder, ids: Sequence[str], allow: bool) -> None:
    """RejectedInputError if some of `ids` failed when the folder was made, unless that is allowed."""
    failed = [id_ for id_ in ids if id_ in folder.failures]
    if failed and not allow:
        raise RejectedInputError(
            f"{show(folder.path.name or str(folder.path))} is incomplete: {len(failed)} of {len(ids)} images failed "
            f"there, first: '{show(failed[0])}' ({show(folder.failures[failed[0]]).rstrip('.')}). Mend them and run "
            f"the same {manifests.command(folder.stage)} command again, or pass --allow-partial to go on without them."
        )


def is_stage_folder(path: Path) -> bool:
    """Whether `path` was made by one of our commands, as a whole or in shards."""
    return (path / manifests.NAME).is_file() or shards.is_cut(path)


def stage_folders(given: Sequence[Path]) -> list[Path]:
    """The stage folders themselves, and those directly inside of folders that are none; RejectedInputError: neither."""
    found: list[Path] = []
    for path in given:
        inside = [path] if is_stage_folder(path) else _children(path)
        if not inside:
            raise RejectedInputError(
                f"{show(path)} is not a stage folder and holds none. Pass what a stage wrote."
            )
        found += [folder for folder in inside if folder not in found]
    return found


def _children(path: Path) -> list[Path]:
    return [child for child in sorted(path.glob("*")) if is_stage_folder(child)]


def read_item(folder: StageFolder, id: str) -> bytes:  # noqa: A002 - the contract's word
    """The bytes of one item's file; ItemError "missing" or "damaged" if they are not what was written."""
    item = folder.items.get(id)
    if item is None:
        why = folder.failures.get(id, "it is not in the folder")
        raise ItemError("missing", f"{show(folder.path.name)} has no '{show(id)}': {why}.")
    payload = read_regular_file(folder.path / item.path, OutputMismatchError, item.bytes)
    if payload is None or sha256(payload) != item.sha256:
        state = "missing" if payload is None else "damaged"
        raise ItemError(
            "damaged",
            f"{show(folder.path / item.path)} is {state}. Run {manifests.command(folder.stage)} again.",
        )
    return payload


def read_extra(folder: StageFolder, name: str) -> bytes:
    """The bytes of a whole file beside the items, b"" if the stage wrote none; OutputMismatchError: damaged."""
    digest = folder.manifest["extras"].get(name)
    if digest is None:
        return b""
    payload = read_regular_file(folder.path / name, OutputMismatchError)
    if payload is None or sha256(payload) != digest:
        state = "missing" if payload is None else "damaged"
        raise OutputMismatchError(
            f"{show(folder.path / name)} is {state}. Run {manifests.command(folder.stage)} again."
        )
    return payload


def _made_by(stages: Sequence[str]) -> str:
    commands = " or ".join(manifests.command(stage) for stage in stages)
    return f" made by {commands}." if commands else ""
