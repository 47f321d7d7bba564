"""A stage folder that several runs fill together: OUT/shards/I-of-N/ holds the manifest and the list of each.

Files of the items, and what lies beside them, are where a run without shards puts them. `data.merging` makes one
manifest and one list of all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss_cli.config import Shard
from wsss_cli.data import manifest as manifests
from wsss_cli.data.clearing import LOCK
from wsss_cli.data.locks import refuse_alive
from wsss_cli.errors import EnvironmentProblemError, OutputMismatchError, RejectedInputError
from wsss_cli.text import show

NAME = "shards"
SHARER = "one of its shards"  # who holds the lock of a folder in which shards are running


def home(out: Path, shard: Shard) -> Path:
    """Where a shard keeps its own files."""
    return out / NAME / f"{shard.index}-of-{shard.count}"


def homes(out: Path) -> dict[Shard, Path]:
    """The shards that have begun in a folder, in order, and where each keeps its own files."""
    found = {}
    try:
        for path in (out / NAME).iterdir():
            match = re.fullmatch(r"([0-9]{1,7})-of-([0-9]{1,7})", path.name, re.ASCII)
            if match and 1 <= int(match[1]) <= int(match[2]) and path.is_dir() and not path.is_symlink():
                found[Shard(int(match[1]), int(match[2]))] = path
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise EnvironmentProblemError(
            f"Cannot look into {show(out / NAME)}: {error.strerror}. Shards may have begun there."
        ) from None
    return dict(sorted(found.items()))


def read_share(path: Path) -> dict[str, Any] | None:
    """The manifest of the shard at home at `path`; None if it has none yet (OutputMismatchError: it is no shard's)."""
    manifest = manifests.read_manifest(path, OutputMismatchError)
    if manifest is None:
        return None
    share = manifest.get(manifests.SHARD)
    if share is None or path.name != f"{share['index']}-of-{share['count']}":
        raise OutputMismatchError(f"{show(path)} does not hold the manifest of this shard. Remove it.")
    return manifest


def is_merged(out: Path) -> bool:
    """Whether a folder has a manifest of all images: its shards were merged, or it never had any."""
    return (out / manifests.NAME).is_file()


def is_cut(out: Path) -> bool:
    """Whether a folder holds shards that are not merged."""
    return not is_merged(out) and bool(homes(out))


def refuse_input(folder: Path) -> None:
    """RejectedInputError if the folder, which another stage is to read, holds shards that are not merged."""
    if is_cut(folder):
        raise RejectedInputError(
            f"{show(folder)} is cut into shards. Run 'wsss merge {show(folder)}' first, once all of them have ended."
        )


def refuse_whole(out: Path) -> None:
    """OutputMismatchError if shards were begun in the folder of a run that has none."""
    if homes(out):
        raise OutputMismatchError(
            f"{show(out)} is cut into shards. Run 'wsss merge {show(out)}' once all of them have ended, "
            "or pass another --out."
        )


def refuse_begun(out: Path) -> None:
    """OutputInUseError if a run without shards is filling the folder, OutputMismatchError if one was stopped in it."""
    if not _is_running(out):
        return
    refuse_alive(out / LOCK)
    if _is_running(out):  # else it has ended meanwhile
        raise OutputMismatchError(
            f"{show(out)} was begun without shards and is not finished. "
            "Run the same command without shards (--shard none), or pass another --out."
        )


def _is_running(out: Path) -> bool:
    manifest = manifests.read_manifest(out, OutputMismatchError)
    return manifest is not None and manifest["status"] == "running"


def refuse_disagreement(out: Path, shard: Shard, mine: Mapping[str, Any], *, overwriting: bool) -> None:
    """OutputMismatchError if the shards in `out` are of another number or other ids than those of `mine`.

    Also if the first of the others was made with another configuration or from other inputs, unless this one is
    `overwriting`: then each shard replaces its own part, one after another.
    """
    found = homes(out)
    other = next((known for known in found if known.count != shard.count), None)
    if other is not None:
        raise OutputMismatchError(
            f"{show(out)} is cut into {other.count} shards, not into {shard.count}. "
            f"Pass --shard I/{other.count} or another --out."
        )
    for known, path in found.items():
        try:
            theirs = read_share(path)
        except OutputMismatchError:
            if known != shard or not overwriting:
                raise
            continue  # what is damaged is replaced
        if theirs is None:
            continue
        if theirs[manifests.SHARD]["ids"] != mine[manifests.SHARD]["ids"]:
            count, now = theirs[manifests.SHARD]["ids"]["count"], mine[manifests.SHARD]["ids"]["count"]
            raise OutputMismatchError(
                f"Shard {known} in {show(out)} is of other images ({count}, now {now}). "
                "Pass another --out, or remove this folder."
            )
        if known != shard:
            if not overwriting:
                compare(out, theirs, mine, manifests.REMEDY)
            return


def compare(out: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any], remedy: str) -> None:
    """OutputMismatchError if two shards in `out` differ in what all must share; it names that of `theirs`."""
    one, other = ({**each, "inputs": _common_inputs(each)} for each in (theirs, mine))
    name = f"Shard {called(theirs)} of {show(out)}"
    manifests.compare(out, one, other, name=name, remedy=remedy)
    changes = manifests.differences(theirs["facts"], mine["facts"])
    if changes:
        raise OutputMismatchError(f"{name} was made from other facts: {'; '.join(changes)}. {remedy}")


def called(manifest: Mapping[str, Any]) -> str:
    """The number of the shard whose manifest this is, as it is typed."""
    share = manifest[manifests.SHARD]
    return f"{share['index']}/{share['count']}"


def _common_inputs(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that all shards share: where their fingerprints are of single shards, the whole, or the path."""
    inputs = dict(manifest["inputs"])
    if manifest["stage"] not in manifests.OWN_EXTRAS:
        return inputs
    return {
        name: {**value, "fingerprint": value.get(manifests.WHOLE) or value.get("path")}
        for name, value in inputs.items()
        if isinstance(value, dict)
    }
