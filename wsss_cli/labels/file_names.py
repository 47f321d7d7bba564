"""Classes in the names of images, found by the regular expression of --label-regex."""

from __future__ import annotations

import re
from pathlib import Path

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.labels import Labels, Row, build, classes_beside, tagged
from wsss_cli.labels.parsing.files import image_names
from wsss_cli.text import encode_id, show, without_image_suffix

USES = ("regex",)

_NAMES, _ONE, _BITS = "classes", "class", "bits"
_SEPARATORS = re.compile(r"[-+,;&]")
_ADVICE = (
    "Name a group (?P<classes>...), with names joined by - + , ; or &, groups (?P<class>...) or (?P<class1>...) for "
    "one name each, or (?P<bits>...) with a 0 or 1 for each line of classes.txt."
)


def matches(path: Path) -> bool:  # noqa: ARG001 - the form of a reader
    """Never: only --label-regex asks for it."""
    return False


def read(path: Path, *, regex: str) -> Labels:
    """The classes in the path of every image below the folder `path`, searched without its suffix."""
    pattern = _compiled(regex)
    if not path.is_dir():
        raise RejectedInputError(
            f"{show(path)} is not a folder. With --label-regex --labels is the folder of images."
        )
    known = classes_beside(path)
    if _BITS in pattern.groupindex and known is None:
        raise RejectedInputError(
            f"{show(path)} has no classes.txt, which must name the classes that 0 and 1 stand for."
        )
    names = [without_image_suffix(name) for name in image_names(path)]
    found = {name: match for name in names if (match := pattern.search(name))}
    missing = [name for name in names if name not in found]
    if missing:
        raise RejectedInputError(
            f"--label-regex '{show(regex)}' is not found in {len(missing)} of {len(names)} names, first: "
            f"'{show(missing[0])}'. Let it match every image; an empty group is an image without any class."
        )
    return build([_row(name, match, known or ()) for name, match in found.items()], known, path)


def _compiled(regex: str) -> re.Pattern[str]:
    if not regex:
        raise UsageError(
            "The label format regex needs --label-regex, which finds the classes in the images' names."
        )
    try:
        pattern = re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"--label-regex is '{regex}', which is no regular expression: {error}.") from None
    groups = set(pattern.groupindex)
    kinds = [
        groups & {_NAMES},
        groups & {_BITS},
        {name for name in groups if re.fullmatch(_ONE + "[0-9]*", name)},
    ]
    if sum(map(bool, kinds)) != 1 or groups - set().union(*kinds):
        raise UsageError(f"--label-regex is '{regex}'. {_ADVICE}")
    return pattern


def _row(name: str, match: re.Match[str], known: tuple[str, ...]) -> Row:
    where = f"'{show(name)}'"
    groups = {group: text for group, text in match.groupdict().items() if text}
    if _BITS in groups:
        names = _named_bits(groups[_BITS], known, where)
    elif _NAMES in groups:
        names = _SEPARATORS.split(groups[_NAMES])
    else:
        names = list(groups.values())
    return Row(encode_id(name), tagged(names, where), where)


def _named_bits(text: str, known: tuple[str, ...], where: str) -> list[str]:
    bits = re.sub(r"[ ,;_-]", "", text)
    if set(bits) - {"0", "1"} or len(bits) != len(known):
        raise RejectedInputError(
            f"{where}: '{show(text)}' is no row of {len(known)} zeros and ones, one for each class."
        )
    return [name for name, bit in zip(known, bits, strict=True) if bit == "1"]
