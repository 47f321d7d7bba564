"""Removing what an earlier run wrote, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data.files import remove, remove_empty_folders, remove_growing, remove_tree, sweep
from wsss_cli.errors import OutputMismatchError
from wsss_cli.text import show

RESUME = ".resume.pt"  # the state of a training that was interrupted
CACHE = ".wsss-cache"  # decoded pictures of a training
LOCK = ".wsss.lock"
OVERLAY = "overlay.png"  # of --overlay: a look at the items, no part of them, hence unlisted


def clear(out: Path, stage: str, note: Callable[[str], None]) -> None:
    """Remove the files of the run in `out`: what is listed goes before the list.

    Another command's folder is an OutputMismatchError; a damaged manifest is replaced after a note.
    """
    try:
        old = manifests.read_manifest(out, OutputMismatchError)
    except OutputMismatchError as error:
        note(f"{error} It is replaced.")
        old = None
    if old is not None:
        manifests.refuse_other_stage(out, old, stage, "Pass another --out.")
        root = old.get("root", journals.ITEMS)
        for item in journals.read_journal(out, old["suffix"], root).done.values():
            refuse_links(out, (out / item.path).parent)
            remove(out / item.path)
        for name in old["extras"]:
            remove(out / name)
        remove(out / OVERLAY)  # it shows what is removed here
    _clear_parts(out, stage, note)
    remove(out / RESUME)
    remove_tree(out / CACHE)
    remove_growing(out / journals.NAME)
    remove(out / manifests.NAME)


def clear_shard(out: Path, home: Path, ids: Collection[str]) -> None:
    """Remove what a shard wrote of these ids, and its list and manifest in `home`; what all shards share stays.

    An item that is not of `ids` now has another shard to see to it, which may have made it anew by now.
    """
    old = None
    with contextlib.suppress(OutputMismatchError):  # a damaged one is replaced
        old = manifests.read_manifest(home, OutputMismatchError)
    if old is not None:
        root = old.get("root", journals.ITEMS)
        for item in journals.read_journal(home, old["suffix"], root).done.values():
            if not root or item.id in ids:
                refuse_links(out, (out / item.path).parent)
                remove(out / item.path)
        for name in old["extras"]:
            remove(home / name)
    remove_growing(home / journals.NAME)
    remove(home / manifests.NAME)


def _clear_parts(out: Path, stage: str, note: Callable[[str], None]) -> None:
    """Remove the folders that the command keeps inside its own; one that is not its work, or a link, stays."""
    for part, (command, name) in manifests.PARTS.items():
        folder = out / name
        if command != stage or folder.is_symlink() or not folder.is_dir() or not _is_of(folder, part):
            continue
        clear(folder, part, note)
        sweep(folder)
        remove(folder / LOCK)  # nobody's: who writes into it holds the outer lock
        remove_empty_folders(folder)


def _is_of(folder: Path, stage: str) -> bool:
    try:
        manifest = manifests.read_manifest(folder, OutputMismatchError)
    except OutputMismatchError:
        return False
    return manifest is not None and manifest["stage"] == stage


def refuse_links(out: Path, folder: Path) -> None:
    """OutputMismatchError if a folder from `folder` up to `out` is a link, which would lead out of it."""
    while folder != out:
        if folder.is_symlink():
            raise OutputMismatchError(f"{show(folder)} is a symbolic link. Remove it.")
        folder = folder.parent
