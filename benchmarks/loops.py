"""`wsss cams` against the plain loops of AReAM, MoRe and CRT: seconds, memory, and how equal the maps are.

python -m benchmarks.loops CKPT IMAGES --labels FILE [--list FILE] [--limit 4] [--scale 1] [--repeat 2] [--threads 1]
                           [--precision fp32|bf16] [--memory]

A plain loop is the published inference of the checkpoint's method as its description has it, written here from that
description and not taken from anybody's code: one image after another, one scale after another, attention as a
product and a softmax in the open, kept as long as it is kept there, every map brought to full size view by view, and
a pickled `.npy` of the maps at full size at the end. What the description leaves open is done the cheaper way.

Both sides have the same weights (our network classes hold them), images, tags and scales; both read the image files
and write their own. Ours is `wsss cams --preset paper`, in all else its defaults, so maps at stride 4 in float16. It
also reads the tags' probabilities from a square of the image, which the published loops do not: that counts against
it. The sides take turns on each image in one process; seconds are of the processor, of each side's best turn. The bare
pass is the backbone alone over the views of our side, with fused attention, and with CRT over all of its tiles in all
passes; "one pass" is a single pass over each view, uncut.

Differences are between the two files: the plain one's maps are brought to the size of ours (bilinear), whose float16
counts. `--precision` is of ours and of the bare pass; the plain loops are fp32, as published. `--memory` runs each
side in a process of its own and prints the peaks, PyTorch's own 0.8 GB included.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.layers.attention import Attention
from torch import Tensor

from benchmarks.cams import look, parser_of
from wsss_cli.config import PLAIN, CamsConfig, choose_preset, method_options, resolve
from wsss_cli.data.cams import Cam, decode_cam, encode_cam
from wsss_cli.data.checkpoints import read_checkpoint
from wsss_cli.data.files import write_atomic
from wsss_cli.data.images import read_image
from wsss_cli.data.samples import find_images
from wsss_cli.labels import read_labels
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import rebuild
from wsss_cli.nets.backbones import family
from wsss_cli.runtime.device import autocast
from wsss_cli.steps.localiser import Localiser

SQUARE = 448  # MoRe's
STORED = {
    "aream": "cam",
    "more": "valid_lam",
    "crt": "high_res",
}  # the maps of full size in the published files


@dataclass(frozen=True)
class Network:
    """A trained method and how its images are normalised."""

    method: Any
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def attentions(self) -> list[Attention]:
        """The attention of every layer, in order."""
        return [m for m in self.method.classifier.backbone.modules() if isinstance(m, Attention)]

    def normalised(self, picture: Image.Image) -> Tensor:
        """A picture -> (1, 3, H, W)."""
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        mean, std = (torch.tensor(list(values))[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std


# -- attention ---------------------------------------------------------------------------------------------


Keep = Callable[[Tensor, Tensor, Tensor], None]  # is shown q kᵀ, logits and softmax, (B, heads, T, T) each


def _plain_attention(module: Attention, keep: Keep, x: Tensor, **_: Any) -> Tensor:
    """One layer: product, scale, softmax, each a tensor of its own."""
    batch, tokens, width = x.shape
    q, k, v = module.qkv(x).reshape(batch, tokens, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    product = q @ k.transpose(-2, -1)
    logits = product * module.scale
    weights = logits.softmax(dim=-1)
    keep(product, logits, weights)
    result: Tensor = module.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
    return result


@contextmanager
def in_the_open(network: Network, keep: Keep) -> Iterator[None]:
    """Attention without a fused kernel, in every layer."""
    try:
        for module in network.attentions:
            module.forward = partial(_plain_attention, module, keep)
        yield
    finally:
        for module in network.attentions:
            del module.forward


def up(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, no aligned corners, no antialias."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


# -- AReAM (CAM generation, uniform weights) ---------------------------------------------------------------


def aream(network: Network, path: Path, keys: Sequence[int], scales: Sequence[float]) -> dict[str, Any]:
    """The maps of one image as AReAM's tools store them.

    On MCTformer there is the image's own size alone, mirrored, then padded. On a Conformer there are several scales,
    Pillow's bicubic on the bytes, padded, then mirrored; several scales on MCTformer are made the Conformer's way.
    """
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    stride, as_conformer = network.method.classifier.backbone.stride, not plain_size(network, scales)
    total = torch.zeros(1, len(keys), height, width)
    for scale in scales:
        sides = int(width * scale), int(height * scale)
        scaled = picture.resize(sides, Image.Resampling.BICUBIC) if as_conformer else picture
        x = network.normalised(scaled)
        down, across = x.shape[-2:]
        margin = 0, -across % stride, 0, -down % stride  # zeros to the right and at the bottom
        for mirrored in (False, True):
            if as_conformer:
                view = F.pad(x, margin).flip(-1) if mirrored else F.pad(x, margin)
                maps = up(_aream_maps(network, view, keys), (view.shape[-2], view.shape[-1]))
                maps = (maps.flip(-1) if mirrored else maps)[..., :down, :across]
            else:
                view = F.pad(x.flip(-1) if mirrored else x, margin)
                maps = up(_aream_maps(network, view, keys), (view.shape[-2], view.shape[-1]))[
                    ..., :down, :across
                ]
                maps = maps.flip(-1) if mirrored else maps
            total = total + (up(maps, (height, width)) if (down, across) != (height, width) else maps)
    maps = total.relu()
    maps = maps - maps.amin(dim=(2, 3), keepdim=True)
    maps = maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-6)
    return {"key": np.array(keys, np.int64), "cam": maps[0].numpy()}


def plain_size(network: Network, scales: Sequence[float]) -> bool:
    """Whether AReAM looks at the image as it is: the tool for MCTformer knows no other scale."""
    return network.method.classifier.tokens_are_classes and tuple(scales) == (1.0,)


def _aream_maps(network: Network, view: Tensor, keys: Sequence[int]) -> Tensor:
    """One view -> (1, K, h, w). The network hands out the logits of all layers and heads, stacked."""
    classifier, every = network.method.classifier, list[Tensor]()
    with in_the_open(network, lambda _product, logits, _weights: every.append(logits)):
        maps = classifier(view).maps
    stacked = torch.stack(every)  # (L, 1, heads, T, T)
    every.clear()
    attention = stacked.softmax(dim=-1).mean(dim=2)  # S_l of every layer
    prefix = classifier.backbone.prefix
    if classifier.tokens_are_classes:
        maps = maps.relu() * attention[:, :, :prefix, prefix:].mean(dim=0).reshape(maps.shape)  # all classes
    maps = maps[:, list(keys)]
    affinity = attention[:, :, prefix:, prefix:].mean(dim=0)
    return torch.einsum("bmn,bcn->bcm", affinity, maps.flatten(2)).reshape(maps.shape)


# -- MoRe (multi-scale LAM) --------------------------------------------------------------------------------


def more(network: Network, path: Path, keys: Sequence[int], scales: Sequence[float]) -> dict[str, Any]:
    """The LAMs of one image as MoRe's tool stores them: a square, each scale and its mirror image as one batch."""
    picture = Image.open(path).convert("RGB")
    square = up(network.normalised(picture), (SQUARE, SQUARE))
    total: Tensor | None = None
    for scale in [1.0, *(scale for scale in scales if scale != 1.0)]:  # scale 1 first, always
        side = int(scale * SQUARE)
        x = square if scale == 1.0 else up(square, (side, side))
        upright, mirrored = up(_more_maps(network, torch.cat([x, x.flip(-1)])), (SQUARE, SQUARE)).chunk(2)
        seen = torch.maximum(upright, mirrored.flip(-1))
        total = seen if total is None else total + seen
    assert total is not None
    maps = total - total.amin(dim=(2, 3), keepdim=True)
    maps = maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-5)
    maps = up(maps, (picture.height, picture.width))[0, list(keys)]
    return {"valid_lam": maps.numpy(), "keys": np.array(keys), "keys_gt": np.array(keys)}


def _more_maps(network: Network, views: Tensor) -> Tensor:
    """lam_c(i) = <f_i, Q_c>. The network's whole forward pass is taken, which the tokens Q come out of."""
    classifier, last = network.method.classifier, [torch.empty(0)]

    def keep(product: Tensor, _logits: Tensor, _weights: Tensor) -> None:
        last[0] = product  # the last layer's, unscaled

    with in_the_open(network, keep):
        tokens = classifier.tokens(views)
    classifier.logits(tokens)
    classifier.decoder(tokens.patches)
    categories = classifier.categories(tokens)
    first, end = classifier.registers, classifier.backbone.prefix
    last[0][:, :, first:end, end:].sum(dim=1)  # the scores S, handed out and never used
    return torch.einsum("bcd,bdhw->bchw", categories, tokens.patches)


# -- CRT (CAM making) --------------------------------------------------------------------------------------


def crt(network: Network, path: Path, keys: Sequence[int], scales: Sequence[float]) -> dict[str, Any]:
    """The maps of one image as CRT's step stores them, of low and of full resolution."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    low, whole = ((height - 1) // 4 + 1, (width - 1) // 4 + 1), (-(-height // 16) * 16, -(-width // 16) * 16)
    maps = []
    for scale in scales:
        sides = round(width * scale), round(height * scale)
        scaled = picture if scale == 1.0 else picture.resize(sides, Image.Resampling.BICUBIC)
        x = network.normalised(scaled)
        maps.append(_crt_maps(network, torch.cat([x, x.flip(-1)])))
    lows = torch.stack([up(own[None], low) for own in maps]).sum(dim=0)[0, list(keys)]
    highs = torch.stack([up(own[None], whole) for own in maps]).sum(dim=0)[0, list(keys), :height, :width]
    lows, highs = (own / (own.amax(dim=(1, 2), keepdim=True) + 1e-5) for own in (lows, highs))
    return {"keys": torch.tensor(list(keys)), "cam": lows, "high_res": highs.numpy()}


def _crt_maps(network: Network, pair: Tensor) -> Tensor:
    """An image and its mirror image -> (C, ceil(h/16), ceil(w/16)): all tiles of both in one batch, three passes.

    The attention of every block and pass is kept whole until the end; its class token's row is all that counts.
    """
    classifier, every = network.method.classifier, list[Tensor]()
    backbone, (height, width) = classifier.backbone, pair.shape[-2:]
    stride, cells = backbone.stride, backbone.grid[0]
    side, step = cells * stride, cells * stride // 2
    high, wide = (max((length // step + 1) * step, side) for length in (height, width))
    padded = F.pad(pair, (0, wide - width, 0, high - height))
    corners = [(y, x) for y in range(0, high - step, step) for x in range(0, wide - step, step)]
    tiles = torch.cat([padded[..., y : y + side, x : x + side] for y, x in corners])
    with in_the_open(network, lambda _product, _logits, weights: every.append(weights)):
        maps = classifier.head(backbone(tiles, passes=classifier.passes).patches)
    attention = sum(weights[:, :, 0, backbone.prefix :].mean(dim=1) for weights in every)
    every.clear()
    maps = maps * attention.reshape(len(tiles), 1, cells, cells)
    total = torch.zeros(2, maps.shape[1], high // stride, wide // stride)
    count = torch.zeros(1, 1, *total.shape[2:])
    for (y, x), own in zip(corners, maps.split(2), strict=True):
        place = ..., slice(y // stride, y // stride + cells), slice(x // stride, x // stride + cells)
        total[place] += own
        count[place] += 1
    merged = (total / count)[..., : -(-height // stride), : -(-width // stride)].relu()
    return merged[0] + merged[1].flip(-1)


# -- measuring ---------------------------------------------------------------------------------------------

LOOPS = {"aream": aream, "more": more, "crt": crt}


def ours(about: Any, method: Any, scales: Sequence[float], stride: int, precision: str) -> Localiser:
    """What `wsss cams --preset paper` has made of a checkpoint before its first image."""
    module = METHODS.load(about["method"])
    preset = choose_preset(module.CAMS_PRESETS, "paper", family(about["backbone"]))
    network = Network(method, about["mean"], about["std"])
    extra = ["resample=bytes-floor"] if about["method"] == "aream" and not plain_size(network, scales) else []
    options = method_options(module.CamsOptions, preset, extra)
    config = resolve(CamsConfig(scales=tuple(scales), stride=stride, batch_size=1, precision=precision), preset,
                     {"scales", "precision"})  # fmt: skip
    classes = tuple(range(len(about["classes"])))
    return Localiser(
        method, module.localiser(method, options), module.views(options), config, about, torch.device("cpu"),
        classes, PLAIN,
    )  # fmt: skip


class Sides:
    """The three that are compared, each as a call on one image; the files of the first two land in a folder."""

    def __init__(
        self,
        about: Any,
        method: Any,
        scales: Sequence[float],
        out: Path,
        stride: int = 4,
        precision: str = "fp32",
    ) -> None:
        self.about, self.scales, self.out, self.precision = about, scales, out, precision
        self.network = Network(method, about["mean"], about["std"])
        self.localiser = ours(about, method, scales, stride, precision)

    def plain(self, path: Path, keys: Sequence[int]) -> None:
        """The plain loop."""
        maps = LOOPS[self.about["method"]](self.network, path, keys, self.scales)
        np.save(self.out / "plain.npy", maps, allow_pickle=True)

    def stage(self, path: Path, keys: Sequence[int]) -> None:
        """What `wsss cams` does with an image."""
        pixels, _ = read_image(path)
        (cam,) = self.localiser.cams([pixels], [tuple(keys)], lambda _tile, _of: None)
        assert isinstance(cam, Cam), cam
        write_atomic(self.out / "stage.npz", encode_cam(cam))

    def views(self, path: Path, keys: Sequence[int]) -> list[Tensor]:
        """The views that our side shows to the network."""
        seen: list[Tensor] = []
        classes, stride = len(self.about["classes"]), self.network.method.classifier.backbone.stride

        def record(view: Tensor) -> Tensor:
            seen.append(view)
            return torch.zeros(len(view), classes, *(-(-side // stride) for side in view.shape[-2:]))

        pixels, _ = read_image(path)
        dataclasses.replace(self.localiser, localise=record).cams([pixels], [tuple(keys)], lambda *_: None)
        return seen

    def bare(self, views: Sequence[Tensor]) -> None:
        """The backbone over the views; with CRT over all tiles, in all passes."""
        with autocast(torch.device("cpu"), self.precision):
            for view in views:
                look(self.network.method.classifier, view, spare=True)

    def once(self, views: Sequence[Tensor]) -> None:
        """The backbone over the views in one pass, uncut."""
        with autocast(torch.device("cpu"), self.precision):
            for view in views:
                self.network.method.classifier.backbone(view)

    def differences(self) -> tuple[float, float]:
        """Largest and mean absolute difference of the maps in the two files, at the size of ours."""
        plain = np.load(self.out / "plain.npy", allow_pickle=True).item()[STORED[self.about["method"]]]
        cam = decode_cam((self.out / "stage.npz").read_bytes(), classes=len(self.about["classes"]))
        found = torch.from_numpy(cam.maps)
        size = int(found.shape[-2]), int(found.shape[-1])
        expected = torch.from_numpy(plain)[None]
        apart = ((expected if expected.shape[-2:] == size else up(expected, size))[0] - found).abs()
        return float(apart.max()), float(apart.mean())


def clocked(call: Callable[..., None], *arguments: Any) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    call(*arguments)
    return time.process_time() - began


HEAD = (
    "method, backbone", "precision", "scales", "images", "plain loop, s", "`wsss cams`, s", "bare pass, s",
    "plain : ours", "ours : bare", "plain : bare", "plain : one pass", "largest, mean difference",
)  # fmt: skip


@torch.no_grad()
def compare(sides: Sides, images: Sequence[tuple[Path, tuple[int, ...]]], repeat: int) -> None:
    """Print the table; the first image warms up, of each other one the best turn of a side counts."""
    tiled = getattr(sides.network.method.classifier, "tiled", False)
    seconds, apart = [], []
    for path, keys in images:
        views = sides.views(path, keys)
        turns = [
            (
                clocked(sides.plain, path, keys),
                clocked(sides.stage, path, keys),
                clocked(sides.bare, views),
                clocked(sides.once, views) if tiled else 0.0,
            )
            for _ in range(repeat)
        ]
        seconds.append([min(side) for side in zip(*turns, strict=True)])
        apart.append(sides.differences())
    plain, stage, bare, once = np.mean(seconds[1:], axis=0)
    largest, mean = max(one for one, _ in apart[1:]), np.mean([one for _, one in apart[1:]])
    row = (
        f"`{sides.about['method']}`, {sides.about['backbone']}", sides.precision,
        ", ".join(f"{scale:g}" for scale in sides.scales), str(len(images) - 1),
        f"{plain:.3f}", f"{stage:.3f}", f"{bare:.3f}", f"{plain / stage:.2f}", f"{stage / bare:.2f}",
        f"{plain / bare:.2f}", f"{plain / once:.1f}" if tiled else "–", f"{largest:.4f}, {mean:.6f}",
    )  # fmt: skip
    for cells in (HEAD, ("---",) * len(HEAD), row):
        print(f"| {' | '.join(cells)} |")


def alone(side: str) -> int:
    """Run this program for one side in a process of its own -> its peak in MiB."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--memory"]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.loops", *arguments, "--only", side])
    _, status, own = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return own.ru_maxrss // 1024


def main() -> None:
    """Print the table, or the peaks."""
    parser = parser_of(__doc__, limit=4)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", choices=("plain", "stage"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory:
        peaks = {side: alone(side) for side in ("plain", "stage")}
        print(f"peak: plain loop {peaks['plain']:,} MiB, wsss cams {peaks['stage']:,} MiB")
        return
    torch.set_num_threads(asked.threads)
    trained = read_checkpoint(asked.checkpoint, "classifier")
    names, method = trained.about["classes"], rebuild(trained.about, trained.state)
    wanted = set(asked.list.read_text().split()) if asked.list else None
    samples = [sample for sample in find_images(asked.images) if wanted is None or sample.id in wanted]
    samples = samples[: asked.limit + 1]
    table = read_labels(asked.labels, ids={sample.id for sample in samples}).table
    images = [
        (sample.path, tuple(sorted(names.index(name) for name in table[sample.id]))) for sample in samples
    ]
    with tempfile.TemporaryDirectory() as out:
        sides = Sides(trained.about, method, tuple(asked.scale or (1.0,)), Path(out),
                      precision=asked.precision)  # fmt: skip
        if asked.only:
            with torch.no_grad():
                for path, keys in images:
                    getattr(sides, asked.only)(path, keys)
        else:
            compare(sides, images, asked.repeat)


if __name__ == "__main__":
    main()
