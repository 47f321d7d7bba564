"""Releases: checkpoints as authors publish them -> what this toolkit needs to rebuild the network.

A release is one module, named in `RELEASES`, with

    USES                                         what it asks the user: "num_heads", "classes", "backbone", "cnn"
    matches(state) -> bool                       whether a table of weights looks like it; must not raise
    convert(state, given) -> Converted           names and dimensions of this toolkit; RejectedInputError, UsageError

`convert` need not check that every weight is there: the network is built from what it says, and the stage compares.
It may meet a table that `matches` refused, where the user insists, and then names what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.registry import Registry
from wsss_cli.text import show

if TYPE_CHECKING:
    from torch import Tensor

RELEASES = Registry(
    "release",
    {
        "mctformer": "wsss_cli.releases.mctformer",
        "aream": "wsss_cli.releases.aream",
        "aream-conformer": "wsss_cli.releases.aream_conformer",
        "more": "wsss_cli.releases.more",
        "crt": "wsss_cli.releases.crt",
        "irn": "wsss_cli.releases.irn",
        "timm": "wsss_cli.releases.timm_classifier",
    },
)

PLAIN_PLACES = {
    "classifier.backbone.": "",
    "classifier.": "",
}  # of a transformer with a head, named like DeiT
State = Mapping[str, "Tensor"]
OPTIONAL = "num_batches_tracked"  # older releases of torch did not write it
RESNETS = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}  # blocks of the stages
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation


class Given(NamedTuple):
    """What the user says about a file beside its weights."""

    file: str  # its name
    num_heads: int = 0  # 0: one for 64 channels
    backbone: str = "auto"  # of a timm classifier
    cnn: State | None = None  # the second network's weights, of a release of two files

    def heads(self, width: int) -> int:
        """The number of attention heads, which no weight tells."""
        heads = self.num_heads or width // 64
        if heads < 1 or width % heads or (not self.num_heads and width % 64):
            said = f"{heads} heads" if self.num_heads else "one head for 64 channels"
            raise UsageError(f"A width of {width} does not fit {said}. Pass the network's --num-heads.")
        return heads


@dataclass(frozen=True)
class Converted:
    """A trained method as `methods.assembly.rebuild` takes it; of the `kind` "edges" it is IRN's network."""

    method: str
    backbone: str
    classes: int
    image_size: int
    state: dict[str, Tensor]  # by the names of the method's network
    names: dict[str, str] = field(default_factory=dict)  # of these names, the ones in the file
    places: dict[str, str] = field(default_factory=dict)  # how names begin -> how they begin in the file
    options: dict[str, Any] = field(default_factory=dict)  # of the method's training
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    unused: tuple[str, ...] = ()  # names in the file that the network has no use for
    second: tuple[str, ...] = ()  # beginnings of the names that the second file has
    beside: dict[str, Any] = field(default_factory=dict)  # what else the checkpoint says of its network
    notes: tuple[str, ...] = ()
    kind: str = "classifier"

    def in_file(self, name: str) -> str:
        """What the file calls the weight `name`, or would call it."""
        begin = next((begin for begin in self.places if name.startswith(begin)), "")
        return self.names.get(name) or self.places.get(begin, "") + name.removeprefix(begin)


class Release(Protocol):
    """A module in `RELEASES`."""

    USES: tuple[str, ...]

    def matches(self, state: State) -> bool: ...
    def convert(self, state: State, given: Given) -> Converted: ...


def dimensions(state: State, key: str, rank: int) -> tuple[int, ...]:
    """The shape of one entry; RejectedInputError if it is missing or has another number of axes."""
    if key not in state or state[key].ndim != rank:
        found = "is missing" if key not in state else f"has the shape {tuple(state[key].shape)}"
        raise not_whole(key, found)
    return tuple(state[key].shape)


def not_whole(key: str, found: str = "is missing") -> RejectedInputError:
    """The error that names one weight of the file."""
    return RejectedInputError(f"The weights are not whole: '{key}' {found}. Check the file and --from.")


def renamed(state: State, rename: Callable[[str], str]) -> dict[str, str]:
    """New name -> the name in the file; RejectedInputError where two names of one weight have unequal values."""
    names: dict[str, str] = {}
    for key, value in state.items():
        first = names.setdefault(rename(key), key)
        other = state[first]
        if other is not value and not (other.dtype == value.dtype and other.equal(value)):
            raise RejectedInputError(
                f"The weights contradict each other: '{show(first)}' and '{show(key)}' are two names of one weight "
                "and have two values. Check the file."
            )
    return names


def misfit(own: State, state: State, in_file: Callable[[str], str] = str) -> str:
    """What keeps `state` from being the weights of the network `own`, its first name as in the file; "" if nothing."""
    missing = [name for name in own if name not in state and not name.endswith(OPTIONAL)]
    extra = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    for what, names in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
        if names:
            many = f"{len(names)} weights are" if len(names) > 1 else "1 weight is"
            return f"{many} {what}, first '{show(in_file(names[0]))}'"
    return ""


def count(names: Iterable[str], prefix: str) -> int:
    """How many numbered parts `prefix`0, `prefix`1, ... there are."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})


def resnet(names: Iterable[str], prefix: str, what: str) -> str:
    """The ResNet with the stages `prefix`layer1 to 4; RejectedInputError, about `what`, for one that is not known."""
    every = tuple(names)
    blocks = tuple(count(every, f"{prefix}layer{number}.") for number in (1, 2, 3, 4))
    if blocks not in RESNETS:
        raise RejectedInputError(
            f"{what} has stages of {blocks} blocks; ResNet-50, 101 and 152 are known. Check the file."
        )
    return RESNETS[blocks]


def plain_vit(state: State, tokens: int, heads: int, prefix: str = "") -> str:
    """The backbone of weights named like DeiT's, `prefix` before each; the first `tokens` positions are no patches."""
    width, _, patch, _ = dimensions(state, f"{prefix}patch_embed.proj.weight", 4)
    _, positions, _ = dimensions(state, f"{prefix}pos_embed", 3)
    grid = round(max(0, positions - tokens) ** 0.5)
    if grid < 1 or grid * grid != positions - tokens:
        raise RejectedInputError(
            f"The weights have {positions} positions for {tokens} tokens and no square of patches. Check the file."
        )
    layers = count(state, f"{prefix}blocks.")
    if not layers:
        raise not_whole(f"{prefix}blocks.0.norm1.weight")
    return f"vit:width={width},layers={layers},heads={heads},patch={patch},grid={grid}"


def grid_side(backbone: str) -> int:
    """Pixels along a side of the square that a `plain_vit` was made for."""
    values = dict(part.split("=") for part in backbone.partition(":")[2].split(","))
    return int(values["patch"]) * int(values["grid"])


def is_multi_token(state: State) -> bool:
    """Whether it is a transformer with one class token for each class beside a 3x3 head over its patches."""
    tokens, head = state.get("cls_token"), state.get("head.weight")
    if tokens is None or head is None or tokens.ndim != 3 or head.ndim != 4:
        return False
    return tokens.shape[1] == head.shape[0] and head.shape[2:] == (3, 3) and "pos_embed" in state


def multi_token(method: str, state: State, given: Given, options: Mapping[str, Any]) -> Converted:
    """MCTformer-V2's network, which AReAM shares, as `method`; its last LayerNorm is there and never used."""
    _, classes, width = dimensions(state, "cls_token", 3)
    backbone = plain_vit(state, classes, given.heads(width))
    names = {f"classifier.{'' if key.startswith('head.') else 'backbone.'}{key}": key for key in state}
    return Converted(
        method, backbone, classes, grid_side(backbone), {ours: state[key] for ours, key in names.items()}, names,
        PLAIN_PLACES, dict(options),
    )  # fmt: skip
