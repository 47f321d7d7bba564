"""manifest.json: reading it, and what it must agree with before a stage continues."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsss_cli import __version__
from wsss_cli.config import item_limit
from wsss_cli.data.environment import environment
from wsss_cli.data.files import read_regular_file, sha256
from wsss_cli.data.journal import ITEMS, Journal, ids_fingerprint, read_journal
from wsss_cli.data.journal import NAME as JOURNAL
from wsss_cli.data.json_files import json_bytes, parse_json
from wsss_cli.errors import OutputMismatchError, TooManyFailuresError, UsageError, WsssError
from wsss_cli.storage.address import location
from wsss_cli.text import show

NAME = "manifest.json"
SCHEMA = 1
REMEDY = "Pass --overwrite or another --out."
# Stages that are a folder inside another command's: stage -> (that command, the folder's name).
PARTS = {"refine-labels": ("refine", "labels")}
_STATUSES = ("running", "complete", "partial")
_SEAL = "seal"
SHARD = "shard"  # of a shard's manifest only: which one it is, and the ids of all
WHOLE = (
    "whole"  # of an input of a stage in OWN_EXTRAS, in a shard's manifest: the fingerprint of all its files
)
# Commands whose shards write other files beside the items than the whole run; they lie beside the shard's manifest.
OWN_EXTRAS = frozenset({"eval"})
_PER_RUN = ("started", "finished", "environment", "version", _SEAL)
_NO_SHARE: dict[str, Any] = {"index": 1, "count": 1, "ids": {"count": 0, "fingerprint": ""}}
_LONGEST_VALUE = 60
_TYPES: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "version": str,
    "configuration": dict,
    "classes": list,
    "inputs": dict,
    "facts": dict,
    "counts": dict,
    "ids": dict,
    "suffix": str,
    "extras": dict,
    "items": (str, type(None)),
}
_KEYS = {*_TYPES, *_PER_RUN, "schema", "status", "counts", "root", SHARD}


def read_manifest(folder: Path, error: type[WsssError], remedy: str = REMEDY) -> dict[str, Any] | None:
    """The manifest of a stage folder, None if there is none; anything that is no manifest raises `error`.

    OutputMismatchError if it was changed after it was sealed. `remedy` is what to do about all this.
    """
    path = folder / NAME
    payload = read_regular_file(path, error)
    if payload is None:
        return None
    value = parse_json(payload, show(path), error)
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is int and schema != SCHEMA:
        way = "Use the newer wsss." if schema > SCHEMA else f"It is of an earlier wsss. {remedy}"
        raise error(f"{show(path)} has schema {schema}; this wsss reads {SCHEMA}. {way}")
    if not isinstance(value, dict) or not _is_manifest(value):
        raise error(f"{show(path)} is not the manifest of a stage. {remedy}")
    if value.pop(_SEAL, None) not in (None, _seal(value)):  # earlier versions wrote none
        raise OutputMismatchError(
            f"{show(path)} has changed since {maker(value['stage'])} wrote it. {remedy}"
        )
    return value


def payload(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest's file, sealed: a later change of what decisions rest on is noticed."""
    return json_bytes({**manifest, _SEAL: _seal(manifest)})


def _seal(manifest: Mapping[str, Any]) -> str:
    return sha256(json_bytes({key: value for key, value in manifest.items() if key not in _PER_RUN}))


def _is_manifest(value: Mapping[str, Any]) -> bool:
    typed = all(isinstance(value.get(key), kind) for key, kind in _TYPES.items())
    if not typed or type(value.get("schema")) is not int or value["schema"] != SCHEMA:
        return False
    if value.get("status") not in _STATUSES:
        return False
    if value.get("root", ITEMS) not in (ITEMS, ""):
        return False
    if not _is_share(value.get(SHARD, _NO_SHARE)):
        return False
    counted = ("total",) if value["status"] == "running" else ("total", "done", "failed")
    if any(type(value["counts"].get(key)) is not int for key in counted):
        return False
    if not value.keys() <= _KEYS or not all(isinstance(name, str) for name in value["classes"]):
        return False
    named = all(_is_name(name) and isinstance(digest, str) for name, digest in value["extras"].items())
    return named and re.fullmatch(r"(\.[A-Za-z0-9]+)?", value["suffix"]) is not None


def _is_share(value: Any) -> bool:
    """Whether it says which shard this is, and of which ids."""
    if not isinstance(value, dict) or value.keys() != _NO_SHARE.keys():
        return False
    ids, numbers = value["ids"], (value["index"], value["count"])
    counted = (
        isinstance(ids, dict) and type(ids.get("count")) is int and isinstance(ids.get("fingerprint"), str)
    )
    return counted and all(type(number) is int and number > 0 for number in numbers)


def _is_name(name: str) -> bool:
    """Whether it can be that of a file in the folder: names become paths, and none may lead out of it."""
    return name.isprintable() and name not in ("", "..", ITEMS) and Path(name).name == name


def read_whole_journal(
    folder: Path, manifest: Mapping[str, Any], ids: Collection[str] | None = None, remedy: str = REMEDY
) -> Journal:
    """The journal beside a manifest; if the manifest is of a finished run it must be the very same one.

    Of its records only those of `ids` are kept, if these are given.
    """
    journal = read_journal(folder, manifest["suffix"], manifest.get("root", ITEMS), ids)
    if manifest["status"] != "running" and journal.digest != manifest["items"]:
        raise OutputMismatchError(f"{show(folder / JOURNAL)} is damaged or not of this run. {remedy}")
    return journal


def refuse_other_stage(folder: Path, old: Mapping[str, Any], stage: str, remedy: str) -> None:
    """OutputMismatchError if another command made the folder."""
    if old["stage"] != stage:
        raise OutputMismatchError(
            f"{show(folder.name)} was made by {maker(old['stage'])}, not by {maker(stage)}. {remedy}"
        )


def command(stage: str) -> str:
    """The command, in quotes, that makes folders of this stage."""
    return f"'wsss {show(PARTS[stage][0] if stage in PARTS else stage)}'"


def maker(stage: str) -> str:
    """Who made a folder of this stage, for messages."""
    return command(stage) + (" for its own use" if stage in PARTS else "")


def compare(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, name: str = "", remedy: str = REMEDY
) -> list[str]:
    """Remarks on continuing the run of manifest `old` as `new`; OutputMismatchError says what forbids it.

    `name` is what messages call it, by default the folder's name; `remedy` is what to do about what they say.
    """
    name = name or show(folder.name or str(folder))
    refuse_other_stage(folder, old, new["stage"], "Pass another --out.")
    changes = differences(old["configuration"], new["configuration"])
    changes += differences({"classes": old["classes"]}, {"classes": new["classes"]})
    changes += differences({"suffix": old["suffix"]}, {"suffix": new["suffix"]})
    if changes:
        raise OutputMismatchError(
            f"{name} was made with another configuration: {'; '.join(changes)}. {remedy}"
        )
    changed = _changed_inputs(old["inputs"], new["inputs"])
    if changed:
        raise OutputMismatchError(f"{name} was made with another input: {'; '.join(changed)}. {remedy}")
    if old["version"] != new["version"]:
        return [f"{name} was begun by wsss {old['version']}; wsss {new['version']} continues it."]
    return []


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys that differ, also in what is nested, each with its values."""
    result: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            result += differences(before, after, f"{prefix}{key}.")
        elif before != after or (key in old) != (key in new):
            # It may differ though the same was typed: the hardware decides what auto means.
            way = " (--precision says which)" if key == "precision" else ""
            was, is_now = (_brief(values[key]) if key in values else "unset" for values in (old, new))
            result.append(f"{show(prefix + key)} {was} -> {is_now}{way}")
    return result


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _LONGEST_VALUE and isinstance(value, list):
        text = f"({len(value)} values, {sha256(text.encode(errors='replace'))[:8]})"
    return show(text if len(text) <= 2 * _LONGEST_VALUE else text[:_LONGEST_VALUE] + "...")


def _changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    result: list[str] = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            result.append(f"{show(name)} is missing now")
        elif name not in old:
            result.append(f"{show(name)} is new")
        elif _fingerprint(old[name]) != _fingerprint(new[name]):
            result.append(f"{show(name)} has changed ({show(str(_path(new[name])))})")
    return result


def _fingerprint(value: Any) -> Any:
    return value.get("fingerprint") if isinstance(value, dict) else value


def _path(value: Any) -> Any:
    return value.get("path", "?") if isinstance(value, dict) else value


def compose(
    stage: str,
    status: str,
    head: Mapping[str, Any],
    *,
    counts: Mapping[str, int],
    ids: Sequence[str],
    suffix: str,
    extras: Mapping[str, str],
    journal: Journal,
    started: str,
    device: str,
    pace: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a run that stands at `status`; `head` is its configuration, classes, inputs and facts.

    `pace` stands in its environment.
    """
    ended = status != "running"
    return {
        "schema": SCHEMA,
        "stage": stage,
        "version": __version__,
        "status": status,
        "counts": dict(counts) if ended else {"total": len(ids)},
        **head,
        "ids": ids_entry(ids),
        "suffix": suffix,
        "items": journal.sha256() if ended else None,
        "extras": dict(sorted(extras.items())),
        "started": started,
        "finished": now() if ended else None,
        "environment": {**environment(device), **pace},
    }


def ids_entry(ids: Sequence[str]) -> dict[str, Any]:
    """What a manifest says of its ids: how many there are, and their hash."""
    return {"count": len(ids), "fingerprint": ids_fingerprint(ids)}


def differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two manifests differ in more than when and where their runs took place."""
    return any(old.get(key) != new[key] for key in new if key not in _PER_RUN)


def recipe(manifest: Mapping[str, Any]) -> str:
    """The hash of what decides an item's bytes besides the item: stage, configuration, classes, inputs."""
    inputs = {name: _fingerprint(value) for name, value in manifest["inputs"].items()}
    value = [manifest["stage"], manifest["configuration"], manifest["classes"], inputs]
    return sha256(json.dumps(value, sort_keys=True).encode())


def refuse_overlap(out: Path, inputs: Mapping[str, Any]) -> None:
    """UsageError if the output folder is, holds, or lies in an input folder."""
    here = out.resolve()
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {show(out)} is a file. Pass a folder.")
    for name, value in inputs.items():
        text = _path(value)
        there = location(text).resolve() if isinstance(value, dict) and isinstance(text, str) else None
        if there is None or not there.is_dir():
            continue
        if here == there or here in there.parents or there in here.parents:
            raise UsageError(
                f"The output directory overlaps input: --out {show(out)} and {show(name)} {show(there)}. "
                "Pass another --out."
            )


def failure_limit(text: str, total: int) -> int | None:
    """How many failed items --max-failures allows: "" no bound, "12", or "5%" of `total` (UsageError)."""
    return item_limit("--max-failures", text, total)


def too_many(failed: int, total: int, id_: str, error: Exception) -> TooManyFailuresError:
    """The error that ends a run once `failure_limit` is passed."""
    return TooManyFailuresError(
        f"{failed} of {total} items failed, last '{show(id_)}': {error}"
        " Mend them, or raise --max-failures; the same command continues."
    )


def plain(value: Any) -> Any:
    """`value` as JSON would give it back: tuples as lists, paths as text, array scalars as numbers."""
    return json.loads(json.dumps(value, allow_nan=False, default=_plain_leaf))


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy, torch; neither is imported here
        return value.tolist()
    raise TypeError(f"{value!r} cannot stand in a manifest")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
