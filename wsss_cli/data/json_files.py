"""JSON as this package writes and reads it: strictly, so that nothing is taken for what it is not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from wsss_cli.data.files import write_atomic
from wsss_cli.errors import RejectedInputError, WsssError
from wsss_cli.text import show


def write_json(path: Path, value: Any) -> str:
    """Write `value` as indented ASCII JSON, keys in their order; NaN is a ValueError. Returns the SHA-256."""
    return write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """`value` as the bytes that `write_json` writes."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=True) + "\n").encode("ascii")


def read_json(path: Path, error: type[WsssError] = RejectedInputError) -> Any:
    """Read a JSON file; duplicate keys, NaN, not UTF-8 or too deep raise `error` with the file's name."""
    try:
        payload = path.read_bytes()
    except OSError as problem:
        raise error(f"Cannot read {show(path)}: {problem.strerror}.") from None
    return parse_json(payload, show(path), error)


def parse_json(payload: bytes, where: str, error: type[WsssError] = RejectedInputError) -> Any:
    """`payload` as JSON, as strictly as `read_json`; `where` names it in the message."""
    try:
        return json.loads(
            payload.decode("utf-8-sig"),
            object_pairs_hook=_unique_keys,
            parse_constant=no_constant,
            parse_float=finite,
        )
    except RecursionError:
        raise error(f"{where} is nested too deeply.") from None
    except ValueError as problem:
        raise error(f"{where} is not valid JSON: {problem}.") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{show(twice)}' stands twice")
    return result


def finite(text: str) -> float:
    """A JSON number that can be written again (ValueError)."""
    number = float(text)
    if math.isinf(number):  # 1e999, which could not be written again
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def no_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads as numbers (ValueError)."""
    raise ValueError(f"{name} is no JSON number")
