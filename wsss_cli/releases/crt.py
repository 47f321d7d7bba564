"""CRT (arXiv 2209.15211): two files, the transformer (`deits_cam.pth`) and the CNN beside it, given by --cnn.

The transformer's names are DeiT's with a 3x3 convolution as head. The CNN's file holds every weight under several names
(`resnet50.layer1`, `stage1.4`, `backbone.0.4`), whatever its depth; any of them will do. Maps come from the transformer
alone: without --cnn the network has no CNN, and tags come from the transformer too.
"""

from __future__ import annotations

from wsss_cli.releases import (
    IMAGENET,
    PLAIN_PLACES,
    Converted,
    Given,
    State,
    dimensions,
    grid_side,
    plain_vit,
    renamed,
    resnet,
)

ALIASES = {
    "stage1.0.": "conv1.",
    "stage1.1.": "bn1.",
    "stage1.4.": "layer1.",
    "stage2.0.": "layer2.",
    "stage3.0.": "layer3.",
    "stage4.0.": "layer4.",
}
USES = ("num_heads", "classes", "cnn")
SECOND = ("cnn.trunk.", "cnn_head.")
ALONE = "No --cnn: maps and tags come from the transformer alone."


def matches(state: State) -> bool:
    """Whether it is a transformer with one class token and a 3x3 convolution as head."""
    token, head = state.get("cls_token"), state.get("head.weight")
    if token is None or head is None or token.ndim != 3:
        return False
    return token.shape[1] == 1 and head.ndim == 4 and head.shape[2:] == (3, 3)


def convert(state: State, given: Given) -> Converted:
    """The transformer below `classifier`, the CNN's trunk by timm's names and its head beside it."""
    width, classes = dimensions(state, "cls_token", 3)[2], dimensions(state, "head.weight", 4)[0]
    backbone = plain_vit(state, 1, given.heads(width))
    names = {f"classifier.{'' if key.startswith('head.') else 'backbone.'}{key}": key for key in state}
    weights, places = {ours: state[key] for ours, key in names.items()}, PLAIN_PLACES
    cnn = None
    if given.cnn is not None:
        name = resnet(canonical(given.cnn), "", "The file of --cnn")
        cnn = {"name": name, "mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}
        beside = renamed(given.cnn, lambda key: _beside(_canonical(key)))
        weights |= {ours: given.cnn[key] for ours, key in beside.items()}
        names, places = {**names, **beside}, {**places, **_places(given.cnn)}
    side = grid_side(backbone) * 3 // 2  # pixels: the published training has crops of 336 and tiles of 224
    return Converted(
        "crt", backbone, classes, side, weights, names, places, {"flat_decay": True}, second=SECOND,
        notes=() if cnn else (ALONE,), beside={"cnn": cnn},
    )  # fmt: skip


def canonical(state: State) -> State:
    """The weights of the CNN under torchvision's names and `classifier`, each once, whatever alias they stand under."""
    return {name: state[key] for name, key in renamed(state, _canonical).items()}


def _canonical(key: str) -> str:
    key = key.removeprefix("resnet50.")
    if key.startswith("newly_added.0."):
        return key.replace("newly_added.0.", "classifier.")
    if key.startswith("backbone."):  # backbone.0 is stage1
        number, _, rest = key.removeprefix("backbone.").partition(".")
        key = f"stage{int(number) + 1}.{rest}" if number.isdecimal() else key
    alias = next((alias for alias in ALIASES if key.startswith(alias)), "")
    return ALIASES[alias] + key.removeprefix(alias) if alias else key


def _beside(key: str) -> str:
    return (
        f"cnn_head.{key.removeprefix('classifier.')}" if key.startswith("classifier.") else f"cnn.trunk.{key}"
    )


def _places(state: State) -> dict[str, str]:
    """How the names of the CNN begin here and in its file."""
    trunk = "resnet50." if any(key.startswith("resnet50.") for key in state) else ""
    head = "newly_added.0." if any(key.startswith("newly_added.") for key in state) else "classifier."
    return dict(zip(SECOND, (trunk, head), strict=True))
