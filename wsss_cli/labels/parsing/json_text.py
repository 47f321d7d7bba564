"""JSON that is not trusted: what its beginning looks like, and values with the place of what is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import read_head, read_text
from wsss_cli.text import show

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)


@dataclass(frozen=True)
class Outline:
    """How a JSON file begins: "{" or "[", and the keys of its first object with how their values begin.

    A value begins with "{", "[" and what is in it ('["' is a list of text), '"', or "1" for anything else.
    """

    kind: str
    keys: Mapping[str, str] = field(default_factory=dict)


def outline(path: Path) -> Outline | None:
    """The outline of what a file begins with; None if that is no object and no list. Never raises."""
    tokens = [match[0] for match in _TOKEN.finditer(read_head(path))]
    if tokens[:1] == ["{"]:
        return Outline("{", _keys(tokens))
    if tokens[:1] == ["["]:
        return Outline("[", _keys(tokens[1:]) if tokens[1:2] == ["{"] else {})
    return None


def _keys(tokens: list[str]) -> dict[str, str]:
    keys: dict[str, str] = {}
    depth = 0
    for position, token in enumerate(tokens):
        depth += token in ("{", "[")
        depth -= token in ("}", "]")
        if not depth:
            break
        after = tokens[position + 1 : position + 4]
        if depth == 1 and token.startswith('"') and after[:1] == [":"] and len(after) > 1:
            keys[token[1:-1]] = "".join(map(_beginning, after[1:] if after[1] == "[" else after[1:2]))
    return keys


def _beginning(token: str) -> str:
    return token[0] if token[0] in '{["]}' else "1"


def parse(text: str, where: str) -> Any:
    """The value of a JSON text; anything else, and a key that stands twice, is a RejectedInputError."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except json.JSONDecodeError as error:
        raise RejectedInputError(
            f"{where} is no JSON: {error.msg} at line {error.lineno} column {error.colno}. Mend or export it again."
        ) from None
    except RecursionError:
        raise RejectedInputError(f"{where} is too deeply nested to be read.") from None
    except ValueError as error:  # a number of thousands of digits
        raise RejectedInputError(f"{where} is no JSON: {show(str(error))}.") from None


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise RejectedInputError(f"{where}: '{show(twice[:80])}' stands twice in one object. Remove one.")
    return found


def read_json(path: Path) -> Any:
    """The value in a JSON file (RejectedInputError)."""
    return parse(read_text(path), show(path.name))


def lines(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The objects of a file with one a line, each with its place (RejectedInputError)."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{show(path.name)} line {number}"
        if line.strip():
            yield as_object(parse(line, where), where), where


def records(value: Any, name: str, word: str = "record") -> Iterator[tuple[Mapping[str, Any], str]]:
    """The objects of a list, each with its place (RejectedInputError)."""
    for number, item in enumerate(as_list(value, name), start=1):
        where = f"{name} {word} {number}"
        yield as_object(item, where), where


def is_lines(path: Path) -> bool:
    """Whether the file is named like JSON lines."""
    return path.suffix.lower() in (".jsonl", ".ndjson")


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    """The value if it is an object, else a RejectedInputError."""
    if not isinstance(value, dict):
        raise RejectedInputError(f"{where}: expected an object {{...}}, found {brief(value)}.")
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """The value if it is a list, else a RejectedInputError."""
    if not isinstance(value, list):
        raise RejectedInputError(f"{where}: expected a list [...], found {brief(value)}.")
    return value


def as_text(value: Any, where: str) -> str:
    """The value if it is text, else a RejectedInputError."""
    if not isinstance(value, str):
        raise RejectedInputError(f"{where}: expected text, found {brief(value)}.")
    return value


def class_values(value: Any, joined_by: str, where: str) -> list[str]:
    """Class names as JSON has them: a list, one text with names joined by `joined_by`, a number, or null for none."""
    if value is None:
        return []
    if isinstance(value, str):
        return value.split(joined_by)
    if isinstance(value, list):
        return [name for item in value for name in _class_value(item, where)]
    return _class_value(value, where)


def _class_value(value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, int) and not isinstance(value, bool):
        return [str(value)]
    raise RejectedInputError(f"{where}: {brief(value)} is no class. Write a list of names.")


def brief(value: Any) -> str:
    """A few characters of the value, for a message."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return show(json.dumps(value, ensure_ascii=False)[:40])
