"""What image-level tags can teach: how often classes occur, and which cannot be told apart; plain Python only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

FEW = 10  # images of a class below which it hardly learns
EVERYWHERE = 0.95  # share of images from which a class is as good as in all of them


def counts(tags: Mapping[str, Collection[str]], classes: Sequence[str]) -> dict[str, int]:
    """How many images show each class."""
    return {name: sum(name in names for names in tags.values()) for name in classes}


def together(tags: Mapping[str, Collection[str]], classes: Sequence[str]) -> dict[tuple[str, str], int]:
    """How many images show both classes of a pair, for pairs that occur."""
    found: dict[tuple[str, str], int] = {}
    order = {name: index for index, name in enumerate(classes)}
    for names in tags.values():
        for pair in combinations(sorted(names, key=order.__getitem__), 2):
            found[pair] = found.get(pair, 0) + 1
    return found


def findings(tags: Mapping[str, Collection[str]], classes: Sequence[str]) -> list[str]:
    """Sentences on what these tags cannot teach, worst first.

    The tags say where a class is only through images without it. So classes that always occur together share one
    map; a class that never occurs without another is drawn to it; one that is everywhere has no contrast.
    """
    each, pairs = counts(tags, classes), together(tags, classes)
    result = [
        f"No image shows '{name}': it will not be learned." for name, count in each.items() if not count
    ]
    for (one, other), both in pairs.items():
        if both < 2:
            continue
        if both == each[one] == each[other]:
            result.append(
                f"'{one}' and '{other}' always occur together ({both} images): tags cannot tell them apart."
            )
        elif both in (each[one], each[other]):
            inner, outer = (one, other) if both == each[one] else (other, one)
            result.append(
                f"All {both} images of '{inner}' also show '{outer}': its maps may cover both. "
                f"Add images of '{inner}' alone."
            )
    for name, count in each.items():
        if count >= max(2, EVERYWHERE * len(tags)):
            result.append(
                f"'{name}' is in {count} of {len(tags)} images: too few without it to say where it is."
            )
        elif 0 < count < FEW:
            result.append(
                f"Only {count} image{'s show' if count > 1 else ' shows'} '{name}'; below {FEW} it hardly learns."
            )
    return result
