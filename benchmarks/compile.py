"""What --compile, and pictures with their channels last, change in the time of a training step, as ratios of one run.

python -m benchmarks.compile --weights DEIT --cnn-weights MOBILENET [--steps 8] [--threads 1]

Files of timm's weights, named after their networks; the CNN's padding is `same`. Steps of 8 random pictures of 224
pixels: forward, backward, AdamW. Two copies of one network take them in turns. Seconds are of the processor, so that
other work on the machine counts little; the first step with --compile has the compiler's in it, with nothing cached.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_cli.data.checkpoints import read_weights
from wsss_cli.methods import METHODS, Progress
from wsss_cli.nets.backbones.load import load_backbone, resolve_name
from wsss_cli.nets.compiled import compiled, costly_parts
from wsss_cli.nets.segmenters import Segmenter
from wsss_cli.ops.segmentation import pixel_loss, tag_loss

CLASSES, BATCH, SIDE, IGNORE = 6, 8, 224, 255
PLACE = Progress(epoch=0, epochs=1, step=0, steps=1)


def classifier(method: str, weights: Path, arguments: str = "", drop_path: float = 0.1) -> nn.Module:
    """A network of `wsss train-cls`."""
    module = METHODS.load(method)
    name = resolve_name("auto", weights) + arguments
    backbone = load_backbone(name, weights=read_weights(weights)[0], drop_path=drop_path).backbone
    network: nn.Module = module.build(backbone, CLASSES, module.TrainOptions())
    return network


def segmenter(weights: Path) -> Segmenter:
    """The network of `wsss train-seg`."""
    name, state = resolve_name("auto", weights), read_weights(weights)[0]
    return Segmenter(load_backbone(name, weights=state, drop_path=0.1).backbone, CLASSES)


def loss(network: Any, images: Tensor) -> Tensor:
    """The losses of a training, summed."""
    if isinstance(network, Segmenter):
        labels = torch.randint(0, 1 + CLASSES, (BATCH, SIDE, SIDE))
        scores = network(images)
        return pixel_loss(scores.logits, labels, IGNORE) + tag_loss(scores.tags, labels, IGNORE)
    targets = torch.randint(0, 2, (BATCH, CLASSES)).float()
    return torch.stack(list(network.losses(images, targets, PLACE).values())).sum()


def seconds() -> float:
    """Those that this process and the ones it started have worked."""
    return sum(os.times()[:4])


def step_of(network: nn.Module) -> Callable[[Tensor], float]:
    """What takes a step and tells its seconds."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    network.train()

    def step(images: Tensor) -> float:
        began = seconds()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(network, images))
        optimizer.step()
        return seconds() - began

    return step


def compare(name: str, plain: nn.Module, steps: int, change: str) -> None:
    """Print the seconds of both kinds of steps, and the median of their ratios."""
    other = copy.deepcopy(plain)
    images = torch.randn(BATCH, 3, SIDE, SIDE)
    changed = images
    with ExitStack() as stack:
        if change == "compile":
            stack.enter_context(compiled(costly_parts(other)))
        else:
            other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            changed = images.to(memory_format=torch.channels_last)
        one, two = step_of(plain), step_of(other)
        first = one(images), two(changed)
        pairs = [(one(images), two(changed)) for _ in range(steps)]
    ratio = statistics.median(after / before for before, after in pairs)
    before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{name}, {change}: {before:.2f} -> {after:.2f} s a step, {ratio:.2f} times; "
        f"first step {first[0]:.1f} -> {first[1]:.1f} s",
        flush=True,
    )


def main() -> None:
    """Print a line for each network and change."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--cnn-weights", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    same = ":pad_type=same"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        trunk, cnn = asked.weights, asked.cnn_weights
        compare("mct", classifier("mct", trunk), asked.steps, "compile")
        compare("train-seg", segmenter(trunk), asked.steps, "compile")
        compare("train-seg", segmenter(trunk), asked.steps, "channels last")
        compare("cam, CNN", classifier("cam", cnn, same), asked.steps, "channels last")
        compare("cam, CNN", classifier("cam", cnn, same), asked.steps, "compile")


if __name__ == "__main__":
    main()
