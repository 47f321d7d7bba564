"""CRT (arXiv 2209.15211): two files, the transformer (`deits_cam.pth`) and the CNN beside it, given by --cnn.

The transformer's names are DeiT's with a 3x3 convolution as head. The CNN's file holds every weight under several names
(`resnet50.layer1`, `stage1.4`, `backbone.0.4`), whatever its depth; any of them will do. Maps come from the transformer
alone: without --cnn the CNN is a small one of zeros, and the checkpoint cannot be trained further.
"""

from __future__ import annotations

from wsss_cli.errors import RejectedInputError
from wsss_cli.releases import IMAGENET, Converted, Given, State, count, dimensions, grid_side, plain_vit

RESNETS = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}  # blocks of the stages
ALIASES = {
    "stage1.0.": "conv1.",
    "stage1.1.": "bn1.",
    "stage1.4.": "layer1.",
    "stage2.0.": "layer2.",
    "stage3.0.": "layer3.",
    "stage4.0.": "layer4.",
}
WITHOUT_CNN = "tiny-cnn"
ALONE = "No --cnn: the maps need none, but the checkpoint is not for training on."


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
    weights = {ours: state[key] for ours, key in names.items()}
    cnn = WITHOUT_CNN
    if given.cnn is not None:
        trunk = canonical(given.cnn)
        cnn = _resnet(trunk)
        weights |= {_beside(key): value for key, value in trunk.items()}
    side = grid_side(backbone) * 3 // 2  # pixels: the published training has crops of 336 and tiles of 224
    return Converted(
        "crt", backbone, classes, side, weights, names, {"flat_decay": True},
        absent=("cnn.", "cnn_head.") if given.cnn is None else (),
        notes=(ALONE,) if given.cnn is None else (),
        beside={"cnn": {"name": cnn, "mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}},
    )  # fmt: skip


def canonical(state: State) -> State:
    """The weights of the CNN under torchvision's names and `classifier`, each once, whatever alias they stand under."""
    return {_canonical(key): value for key, value in state.items()}


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


def _resnet(state: State) -> str:
    blocks = tuple(count(state, f"layer{number}.") for number in (1, 2, 3, 4))
    if blocks not in RESNETS:
        raise RejectedInputError(
            f"The file of --cnn has stages of {blocks} blocks; ResNet-50, 101 and 152 are known. Check --cnn."
        )
    return RESNETS[blocks]
