"""How near `wsss cams` comes to a bare forward pass of its network over the same pixels, in one run, as a ratio.

python -m benchmarks.cams CKPT IMAGES --labels FILE [--list FILE] [--limit 20] [--scale 0.6 --scale 1] [--threads 1]
                          [--precision fp32|bf16]

Image by image, in turns: (1) the backbone alone over every view (scales and mirrors, padded as the stage pads them,
and the square that the tags' probabilities are read from; with crt every tile and pass), with fused attention; (2)
everything the stage does with it: read, decode, maps, encode, write. Seconds are of the processor, so that other work
on the machine counts little. Both have the same precision.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_cli.config import PLAIN, CamsConfig, choose_preset, method_options, resolve
from wsss_cli.data.cams import encode_cam
from wsss_cli.data.checkpoints import read_checkpoint
from wsss_cli.data.files import write_atomic
from wsss_cli.data.images import read_image
from wsss_cli.data.samples import find_images
from wsss_cli.labels import read_labels
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import rebuild
from wsss_cli.methods.crt import CHUNK
from wsss_cli.ops.cam import pad_to_multiple, scaled_by
from wsss_cli.ops.pictures import normalised
from wsss_cli.ops.tiles import split
from wsss_cli.runtime.device import autocast
from wsss_cli.steps.localiser import Localiser


def views(picture: Tensor, config: CamsConfig, stride: int) -> Iterator[Tensor]:
    """The views of a picture (1, 3, H, W) as the network sees them."""
    for scale in config.scales:
        scaled = scaled_by(picture, scale)
        for view in (scaled, scaled.flip(-1)) if config.flip else (scaled,):
            yield pad_to_multiple(view, stride)


def look(classifier: Any, view: Tensor, *, spare: bool = False) -> None:
    """The bare pass: of a method that looks at tiles several times, all of its tiles and passes."""
    if getattr(classifier, "tiled", False):
        for tiles in split(view, classifier.tiles(view, spare=spare)).split(CHUNK):
            classifier.backbone(tiles, passes=classifier.passes)
    else:
        classifier.backbone(view)


def parser_of(description: str | None, limit: int) -> argparse.ArgumentParser:
    """What a comparison of maps is asked for."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--list", type=Path)
    parser.add_argument("--limit", type=int, default=limit)
    parser.add_argument("--scale", type=float, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    return parser


def main() -> None:
    """Print seconds of both and their ratio."""
    parser = parser_of(__doc__, limit=20)
    parser.add_argument("--method", default="")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    trained = read_checkpoint(asked.checkpoint, "classifier")
    module = METHODS.load(asked.method or trained.about["method"])
    config = dataclasses.replace(
        resolve(CamsConfig(), choose_preset(module.CAMS_PRESETS, "default"), ()), precision=asked.precision
    )
    config = dataclasses.replace(config, scales=tuple(asked.scale or (1.0,)))
    options = method_options(module.CamsOptions, choose_preset(module.CAMS_PRESETS, "default"), ())
    method = rebuild(trained.about, trained.state)
    names = tuple(trained.about["classes"])
    localiser = Localiser(
        method, module.localiser(method, options), module.views(options), config, trained.about,
        torch.device("cpu"), tuple(range(len(names))), PLAIN,
    )  # fmt: skip
    wanted = set(asked.list.read_text().split()) if asked.list else None
    samples = [sample for sample in find_images(asked.images) if wanted is None or sample.id in wanted]
    samples = samples[: asked.limit + 1]
    table = read_labels(asked.labels, ids={sample.id for sample in samples})
    backbone, bare, stage = method.classifier.backbone, 0.0, 0.0
    with tempfile.TemporaryDirectory() as out, torch.no_grad():
        for number, sample in enumerate(samples):
            pixels, _ = read_image(sample.path)
            picture = normalised(
                torch.from_numpy(pixels).permute(2, 0, 1),
                trained.about["mean"],
                trained.about["std"],
                torch.device("cpu"),
            )
            side = int(trained.about["image_size"])
            square = torch.nn.functional.interpolate(
                picture, size=(side, side), mode="bicubic", antialias=True
            )
            seen = [square, *views(picture, config, backbone.stride)]
            tags = tuple(sorted(names.index(name) for name in table.table[sample.id]))
            began = time.process_time()
            with autocast(torch.device("cpu"), asked.precision):
                for view in seen:
                    look(method.classifier, view)
            between = time.process_time()
            pixels, _ = read_image(sample.path)
            (cam,) = localiser.cams([pixels], [tags], lambda _tile, _of: None)
            write_atomic(Path(out, f"{number}.npz"), encode_cam(cam))
            if number:  # the first warms up
                bare, stage = bare + between - began, stage + time.process_time() - between
    count = len(samples) - 1
    print(
        f"{module.__name__.rpartition('.')[2]}, {len(config.scales)} scale(s), {asked.threads} thread(s), "
        f"{asked.precision}, {platform.machine()}, {count} images: "
        f"bare {bare / count:.3f} s, stage {stage / count:.3f} s an image: {bare / stage:.0%} of the bare rate"
    )


if __name__ == "__main__":
    main()
