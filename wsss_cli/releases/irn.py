"""IRN (arXiv 1904.05044), also as CRT uses it: edges and displacements over a ResNet, in one file.

It holds every weight under several names (`resnet50.layer1`, `stage2.0`, `backbone.1.0`; `fc_edge1`, `edge_layers.0`).
Any of them will do. What the training keeps beside them (pairs of pixels, targets) is left out.
"""

from __future__ import annotations

from wsss_cli.releases import Converted, Given, State, not_whole, renamed, resnet

USES = ()  # nothing needs to be said
STAGES = {
    "stage1.0.": "conv1.",
    "stage1.1.": "bn1.",
    **{f"stage{n + 1}.0.": f"layer{n}." for n in (1, 2, 3, 4)},
}
LISTS = {"backbone.": "stage{}.", "edge_layers.": "fc_edge{}.", "dp_layers.": "fc_dp{}."}
TRAINING = ("path_indices", "disp_target")
HEADS = ("fc_edge", "fc_dp", "mean_shift.")
LAST = "fc_edge6.weight"
SIDE = 512  # pixels: the crops of the published training


def matches(state: State) -> bool:
    """Whether it has the layer that makes edges of five heads."""
    return any(_canonical(key) == LAST for key in state)


def convert(state: State, given: Given) -> Converted:  # noqa: ARG001 - see USES
    """The trunk below `trunk.model`, the heads as they are called."""
    network = {key: value for key, value in state.items() if not key.startswith(TRAINING)}
    names = renamed(network, lambda key: _ours(_canonical(key)))
    trunk = "resnet50." if any(key.startswith("resnet50.") for key in state) else ""
    if "trunk.model.conv1.weight" not in names:
        raise not_whole(f"{trunk}conv1.weight")
    backbone = resnet(names, "trunk.model.", "The trunk")
    displacement = any(name.startswith("fc_dp") for name in names)
    return Converted(
        "irn", backbone, 0, SIDE, {ours: state[key] for ours, key in names.items()}, names,
        {"trunk.model.": trunk}, {"displacement": displacement}, kind="edges",
        unused=tuple(key for key in state if key.startswith(TRAINING)),
    )  # fmt: skip


def _canonical(key: str) -> str:
    """The name under torchvision's, `fc_edge1` to 6, `fc_dp1` to 7 and `mean_shift`, whatever alias it has."""
    key = key.removeprefix("resnet50.")
    for alias, name in LISTS.items():
        number, _, rest = key.removeprefix(alias).partition(".")
        if key.startswith(alias) and number.isdecimal():
            key = name.format(int(number) + 1) + rest
    for alias, name in STAGES.items():
        if key.startswith(alias):
            return name + key.removeprefix(alias)
    return key.replace("fc_dp7.4.", "mean_shift.")


def _ours(key: str) -> str:
    return key if key.startswith(HEADS) else f"trunk.model.{key}"
