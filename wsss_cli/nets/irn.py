"""IRN: edges and displacements from the features of a CNN (Ahn, Cho, Kwak 2019, arXiv 1904.05044).

With head(x; c, g) = 1x1 convolution to c channels, GroupNorm of g groups, bilinear enlargement, ReLU, and x1..x5 the
features at strides 4, 4, 8, 16, 16:

    E = sigmoid(conv1x1[head(x1; 32, 4), ..., head(x5; 32, 4)])        at stride 4
    D = conv1x1 head([head(x1; 64, 8), head(x2; 128, 16), head([head(x3..x5; 256, 16)]; 256, 16)]; 256, 16)

D (two channels, y and x) points from each pixel to the middle of its instance. Masks of classes need E alone; with a
trunk that is not trained the two share nothing, so D is left out unless it is asked for.

Names of the heads' weights are the published ones (`fc_edge1.0.weight`, `fc_dp7.3.weight`, `mean_shift.running_mean`);
the trunk's are timm's below `trunk.model.`, where the published files say `resnet50.`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.errors import RejectedInputError
from wsss_cli.nets.pyramid import Level, Pyramid, empty_pyramid
from wsss_cli.text import show

EDGE_WIDTH, EDGE_GROUPS = 32, 4


class Fields(NamedTuple):
    """Edge logits (B, 1, h, w) at stride 4, and displacements (B, 2, h, w) or None."""

    edges: Tensor
    displacements: Tensor | None


class MeanShift(nn.Module):
    """The mean displacement of the training images, which is taken off in eval mode."""

    running_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))

    def forward(self, displacements: Tensor) -> Tensor:
        """displacements (B, 2, h, w) -> the same, centred in eval mode."""
        return displacements if self.training else displacements - self.running_mean[:, None, None]


class Irn(nn.Module):
    """The heads over a trunk; a trunk that is frozen gives no gradient and stays as it is."""

    def __init__(self, trunk: Pyramid, *, displacement: bool) -> None:
        super().__init__()
        self.trunk = trunk
        levels = trunk.levels
        for number, level in enumerate(levels, start=1):
            self.add_module(f"fc_edge{number}", _head(level, EDGE_WIDTH, EDGE_GROUPS, 4))
        self.fc_edge6 = nn.Conv2d(EDGE_WIDTH * len(levels), 1, 1)
        self.displacement = displacement
        if displacement:
            self._add_displacement(levels)

    def _add_displacement(self, levels: tuple[Level, ...]) -> None:
        plan = ((64, 8, 4), (128, 16, 4), (256, 16, 8), (256, 16, 8), (256, 16, 8))
        for number, (level, (width, groups, stride)) in enumerate(zip(levels, plan, strict=True), start=1):
            self.add_module(f"fc_dp{number}", _head(level, width, groups, stride))
        self.fc_dp6 = _head(Level(768, 8), 256, 16, 4)
        self.fc_dp7 = _head(Level(448, 4), 256, 16, 4)
        self.fc_dp7.append(nn.Conv2d(256, 2, 1, bias=False))
        self.mean_shift = MeanShift()

    def forward(self, images: Tensor) -> Fields:
        """images (B, 3, H, W), normalised -> edge logits and displacements at stride 4."""
        maps = self.trunk(images)
        return Fields(self._edges(maps), self._displacements(maps) if self.displacement else None)

    def _edges(self, maps: list[Tensor]) -> Tensor:
        heads = [self.get_submodule(f"fc_edge{number}")(x) for number, x in enumerate(maps, start=1)]
        logits: Tensor = self.fc_edge6(torch.cat(_cropped(heads, heads[1]), dim=1))
        return logits

    def _displacements(self, maps: list[Tensor]) -> Tensor:
        d1, d2, *deep = (self.get_submodule(f"fc_dp{number}")(x) for number, x in enumerate(maps, start=1))
        d6 = self.fc_dp6(torch.cat(_cropped(deep, deep[0]), dim=1))
        d7 = self.fc_dp7(torch.cat(_cropped([d1, d2, d6], d2), dim=1))
        result: Tensor = self.mean_shift(d7)
        return result

    def look(self, image: Tensor, canvas: int = 0) -> Fields:
        """Edge probabilities (1, 1, h, w) and displacements of one image (1, 3, H, W), h = H / 4 rounded up.

        Logits are averaged with those of the mirror image. Zeros fill a square of at least `canvas` to the right and
        below (512 as published, which moves GroupNorm's statistics; nothing is ever cut off).
        """
        height, width = image.shape[-2:]
        pair = torch.cat([image, image.flip(-1)])
        pair = F.pad(pair, (0, max(0, canvas - width), 0, max(0, canvas - height)))
        edges, displacements = self(pair)
        rows, columns = -(-height // 4), -(-width // 4)
        edges = edges[..., :rows, :columns].float()
        mean = (edges[:1] + edges[1:].flip(-1)) / 2
        if displacements is not None:
            displacements = displacements[:1, :, :rows, :columns]
        return Fields(mean.sigmoid(), displacements)

    @torch.no_grad()
    def centre(self, batches: Iterable[Tensor]) -> None:
        """Set the mean shift: the mean over batches of images of each channel's mean, in eval mode."""
        self.eval()
        means = [
            found.mean(dim=(0, 2, 3))
            for images in batches
            if (found := self(images).displacements) is not None
        ]
        if means:
            self.mean_shift.running_mean.copy_(torch.stack(means).mean(dim=0))

    def param_groups(self, displacement_lr: float) -> list[tuple[list[nn.Parameter], float, bool]]:
        """Trunk (if it learns) and edge heads; displacement heads learn `displacement_lr` times faster."""
        every = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        slow = [p for name, p in every if not name.startswith("fc_dp")]
        fast = [p for name, p in every if name.startswith("fc_dp")]
        return [(slow, 1.0, True), *([(fast, displacement_lr, True)] if fast else [])]


def untrained(backbone: str, *, displacement: bool) -> Irn:
    """The network that a checkpoint of edges describes, before its weights."""
    return Irn(empty_pyramid(backbone), displacement=displacement)


def _head(level: Level, width: int, groups: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(level.channels, width, 1, bias=False),
        nn.GroupNorm(groups, width),
    ]
    if level.stride > stride:
        layers.append(nn.Upsample(scale_factor=level.stride // stride, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers, nn.ReLU())


def _cropped(maps: list[Tensor], like: Tensor) -> list[Tensor]:
    """The maps cut to the size of `like`, from the top left."""
    height, width = like.shape[-2:]
    return [x[..., :height, :width] for x in maps]


def fill(irn: Irn, state: Mapping[str, Tensor], whose: str, remedy: str) -> None:
    """Load trained weights; RejectedInputError that names `whose` they are if they are another network's."""
    own = irn.state_dict()
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != getattr(state[name], "shape", None)]
    for what, names in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
        if names:
            raise RejectedInputError(
                f"{whose} is no whole edge network: {len(names)} weights are {what}, first '{show(str(names[0]))}'. "
                f"{remedy}"
            )
    irn.load_state_dict(dict(state))
