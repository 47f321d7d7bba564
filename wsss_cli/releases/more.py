"""MoRe (arXiv 2412.11076): encoder, LargeFOV decoder, two patch heads and a graph over the class tokens, in one file.

VOC's checkpoint is the state dict, COCO's a table with it as `model_state_dict`; both say `module.` before every name.
"""

from __future__ import annotations

from wsss_cli.releases import Converted, Given, State, dimensions, plain_vit

USES = ("num_heads", "classes")
PLACES = {
    "encoder": "classifier.backbone",
    "decoder": "classifier.decoder",
    "classifier": "classifier.head",
    "aux_classifier": "classifier.aux_head",
    "graph_layer": "classifier.graph",
}
UNUSED = ("encoder.head.", "graph_layer._fc1.")  # made by the authors' code, used by nothing
PATCHES_OF = "encoder."
SIDE = 448  # pixels: the square of the published training and inference


def matches(state: State) -> bool:
    """Whether it has MoRe's encoder, decoder and second head."""
    return {"encoder.cls_token", "decoder.conv6.weight", "aux_classifier.weight"} <= state.keys()


def convert(state: State, given: Given) -> Converted:
    """Each part under the name of the same part here; the first class tokens are registers."""
    classes = dimensions(state, "classifier.weight", 4)[0]
    _, tokens, width = dimensions(state, "encoder.cls_token", 3)
    decoder_width = dimensions(state, "decoder.conv6.weight", 4)[0]
    unused = tuple(key for key in state if key.startswith(UNUSED))
    names = {_ours(key): key for key in state if key not in unused}
    options = {
        "registers": tokens - classes, "decoder_width": decoder_width, "token_spread": 0.0, "gcr": "sums",
        "ure_patch": "corner",
    }  # fmt: skip
    return Converted(
        "more", plain_vit(state, tokens, given.heads(width), PATCHES_OF), classes, SIDE,
        {ours: state[key] for ours, key in names.items()}, names,
        {f"{ours}.": f"{part}." for part, ours in PLACES.items()}, options, unused=unused,
    )  # fmt: skip


def _ours(key: str) -> str:
    part, _, rest = key.partition(".")
    return f"{PLACES.get(part, part)}.{rest}"
