"""MoRe: class tokens related to patches, and localised by their product (AAAI 2025, arXiv 2412.11076).

A transformer carries four registers and one token T_c for each class. With f the patch features after the last norm, f'
those of the third block from the end (raw), T the class tokens, p̂ = softmax of the segmentation branch:

    cls  = W max_i f_i,   aux = W' max_i f'_i                     tag losses of both (soft margin)
    Q    = GCR(T, f)                                              a graph joins tokens and patches (`nets.gcr`)
    mct  = cross-entropy of q̂ q̂ᵀ/0.07 with the identity           tokens of different classes part
    M    = normalised Σ_scales ReLU(max over mirrors of W f)      maps on the training images; M' of W' f'
    ptc  = patches of one label of M' alike, of two unlike        contrast of patches
    cre  = −Σ_c mean_{m_i=c} log softmax_i ⟨Q_c/|Q_c|, f_i⟩/t     sure patches m, reaches the tokens alone
    ure  = uncertain patches like the present classes, not others, reaches the patches alone
    seg  = cross-entropy of p̂ with labels that PAR makes of M, background and objects in equal parts
    reg  = dense energy of p̂                                      edges where the picture has them
    ℒ    = cls + aux + mct + 0.3 ptc + 0.2 cre + 0.1 ure + 0.12 seg + 0.05 reg

seg and reg start after a tenth of all steps; sure and uncertain patches come from M' in the first half and from M in
the second. (COCO: other weights and starts, preset `coco`.) The localisation map is LAM_c(i) = ⟨f_i, Q_c⟩.

What differs from the authors' code. (1) The graph scores neighbours with an inner product; theirs is a product of two
sums (`gcr=sums`). (2) Class tokens start apart; theirs are equal copies that only cre parts (`token_spread=0`). (3) The
uncertain patch is the one that was tested; theirs lies three rows and columns before it (`ure_patch=corner`). (4) cre
is a log-sum-exp, equal where theirs is finite. (5) Terms of weight 0 are not computed. (6) Phases are shares of all
steps. (7) The un-mirrored view of M at scale 1 is the training forward itself. (8) reg's filter is the same
permutohedral lattice, in torch; `energy=exact` is the Gaussian sum times 0.47, for equal strength, whose cost grows
with the square of the pixels. (9) On grids below 7x7 patches ure's window shrinks. (10) A single class keeps one
neighbour in the graph, where half of 1 would be none. (11) A LAM begins at its mean over the image; above its minimum,
as published, the background lies at half of the maximum, where no threshold is found without the truth
(`zero=minimum`). (12) By default no class stands in where tags are to be found and none is; with `least_patches=5`
those of the segmentation branch do, and none of them is taken for the background because of its place, as the first is
in theirs. Their script for the test set prefers the branch's classes always. (13) Views are of the picture shrunk to
8/7 of their side, where it is larger; on COCO theirs change colours before the size. Layers the authors create and
never use are left out, and scale 1 is looked at only if it is asked for. As published, an augmentation's empty canvas
is labelled like the picture. `--preset paper` undoes (1) to (3), (11) and the first half of (12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.errors import UsageError
from wsss_cli.methods import ParamGroup, Progress
from wsss_cli.methods.more.options import CAMS_PRESETS, TRAIN_PRESETS, CamsOptions, TrainOptions
from wsss_cli.nets import segmenters
from wsss_cli.nets.backbones.vit import Tokens, ViT
from wsss_cli.nets.classifiers import GraphClassifier, Scores
from wsss_cli.nets.trainable import grouped
from wsss_cli.ops import relations
from wsss_cli.ops.affinity import IGNORE, pixel_labels
from wsss_cli.ops.cam import Localise, StandIn, Views, multi_scale, normalise, resize
from wsss_cli.ops.dense_energy import dense_energy
from wsss_cli.ops.segmentation import balanced_pixel_loss

__all__ = [  # what the registry of methods asks for
    "CAMS_PRESETS", "TRAIN_PRESETS", "CamsOptions", "More", "TrainOptions",
    "build", "localiser", "needs", "stand_in", "views",
]  # fmt: skip

EPSILON = 1e-5  # of the maps in training, as published


class More(nn.Module):
    """A `GraphClassifier` whose tokens and patches are told apart by what its own maps show."""

    def __init__(self, backbone: ViT, classes: int, options: TrainOptions) -> None:
        super().__init__()
        self.classifier = GraphClassifier(
            backbone, classes, registers=options.registers, token_spread=options.token_spread,
            aux_block=options.aux_block, score=options.gcr, decoder_width=options.decoder_width,
        )  # fmt: skip
        self.options = options

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C) of the main head."""
        scores: Scores = self.classifier(images)
        return scores.logits[0]

    def segment(self, images: Tensor) -> segmenters.Scores:
        """images (B, 3, H, W) -> logits (B, 1 + C, H, W) of the segmentation branch, and tag logits (B, C)."""
        height, width = images.shape[-2:]
        unit = self.classifier.backbone.stride
        padded = F.pad(images, (0, -width % unit, 0, -height % unit))
        tokens = self.classifier.tokens(padded)
        pixels = resize(self.classifier.decoder(tokens.patches).float(), (padded.shape[-2], padded.shape[-1]))
        return segmenters.Scores(pixels[..., :height, :width], self.classifier.logits(tokens)[0])

    def losses(
        self,
        images: Tensor,
        targets: Tensor,
        progress: Progress,
        boxes: Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Every term of the present phase, weighted; those of weight 0 are absent."""
        tokens = self.classifier.tokens(images)
        categories = self.classifier.categories(tokens)
        main, aux = self.classifier.logits(tokens)
        weights = self.weights(progress)
        terms = {
            "cls": F.multilabel_soft_margin_loss(main.float(), targets),
            "aux": F.multilabel_soft_margin_loss(aux.float(), targets),
        }
        if "mct" in weights:
            terms["mct"] = self._apart(categories, targets)
        if weights.keys() - {"cls", "aux", "mct"}:
            seeds = self.seeds(images, tokens)
            if weights.keys() & {"ptc", "cre", "ure"}:
                terms |= self._relations(tokens, categories, targets, seeds, progress)
            if weights.keys() & {"seg", "reg"}:
                terms |= self._segmentation(images, targets, tokens, seeds[0])
        return {name: weights[name] * term for name, term in terms.items() if name in weights}

    def _apart(self, categories: Tensor, targets: Tensor) -> Tensor:
        share = self.options.mct_tags
        apart = (1 - share) * relations.decorrelation(categories)
        return apart + share * relations.token_tags(categories, targets) if share else apart

    def weights(self, progress: Progress) -> dict[str, float]:
        """The terms that count at this step, with their weights."""
        o = self.options
        known = (
            ("cls", 1.0, 0.0), ("aux", 1.0, 0.0), ("mct", o.mct_weight, 0.0), ("ptc", o.ptc_weight, o.ptc_start),
            ("cre", o.cre_weight, o.relation_start), ("ure", o.ure_weight, o.relation_start),
            ("seg", o.seg_weight, o.seg_start), ("reg", o.reg_weight, o.seg_start),
        )  # fmt: skip
        return {name: weight for name, weight, start in known if weight and _after(start, progress)}

    @torch.no_grad()
    def seeds(self, images: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """M and M' (B, C, H, W) in [0, 1) of a batch whose `tokens` are known."""

        def localise(view: Tensor) -> Tensor:
            return torch.cat(self.classifier.maps(self.classifier.tokens(view)), dim=1).float()

        known = torch.cat(self.classifier.maps(tokens), dim=1).detach().float()
        views = Views(resample="plain", padding="none", mirrors="max", relu="scales", epsilon=EPSILON)
        stride = self.classifier.backbone.stride
        maps = multi_scale(localise, images, self.options.scales, True, stride, {(1.0, False): known}, views)
        main, aux = normalise(maps, EPSILON).chunk(2, dim=1)
        return main, aux

    def patch_labels(
        self, seeds: tuple[Tensor, Tensor], targets: Tensor, grid: tuple[int, int], progress: Progress
    ) -> dict[str, Tensor]:
        """Labels (B, h, w) of patches for ptc, cre and ure at this step."""
        o = self.options
        main, aux = (resize(maps, grid) for maps in seeds)
        contrast = relations.seed_labels(aux, targets, o.high, o.low)
        if _after(o.switch, progress):
            late = relations.seed_labels(main, targets, o.late_high, o.late_low)
            return {"ptc": contrast, "cre": late, "ure": late}
        sure = relations.seed_labels(aux, targets, o.sure_high, o.low)
        return {"ptc": contrast, "cre": sure, "ure": contrast}

    def _relations(
        self,
        tokens: Tokens,
        categories: Tensor,
        targets: Tensor,
        seeds: tuple[Tensor, Tensor],
        progress: Progress,
    ) -> dict[str, Tensor]:
        weights, features = self.weights(progress), tokens.patches
        labels = self.patch_labels(seeds, targets, (features.shape[-2], features.shape[-1]), progress)
        terms = {}
        if "ptc" in weights:
            terms["ptc"] = relations.patch_contrast(features, labels["ptc"])
        if "cre" in weights:
            temperature = self.options.temperature
            terms["cre"] = relations.confident_relation(
                categories, features, targets, labels["cre"], temperature
            )
        if "ure" in weights:
            places = relations.uncertain_places(labels["ure"], self.options.ure_patch)
            if sum(map(len, places)):
                terms["ure"] = relations.uncertain_relation(categories, features, targets, places)
        return terms

    def _segmentation(
        self, images: Tensor, targets: Tensor, tokens: Tokens, seeds: Tensor
    ) -> dict[str, Tensor]:
        colours = self._colours(images)
        labels = self.pixel_labels(seeds, targets, colours)
        logits = self.classifier.decoder(tokens.patches).float()
        logits = resize(logits, (images.shape[-2], images.shape[-1]))
        return {
            "seg": balanced_pixel_loss(logits, labels, IGNORE),
            "reg": dense_energy(logits, colours, labels, IGNORE, self.options.energy),
        }

    @torch.no_grad()
    def pixel_labels(self, seeds: Tensor, targets: Tensor, colours: Tensor) -> Tensor:
        """Labels (B, H, W) of pixels, by PAR, from maps and colours in 0-255."""
        o = self.options
        guide = colours.clamp(0, 255).to(torch.uint8).float() / 255  # whole numbers, as published
        seeds = seeds * targets[:, :, None, None]
        return pixel_labels(seeds, targets, guide, (o.low, o.high), o.par_iterations)

    def _colours(self, images: Tensor) -> Tensor:
        """Normalised images -> 0 to 255."""
        backbone = self.classifier.backbone
        mean, std = (
            images.new_tensor([255 * value for value in values])[:, None, None]
            for values in (backbone.mean, backbone.std)
        )
        return images * std + mean

    def param_groups(self) -> list[ParamGroup]:
        """Trunk and everything else, which learns faster; weight decay for all."""
        factor = self.options.head_lr
        groups = grouped(
            self.named_parameters(),
            lambda name: 1.0 if name.startswith("classifier.backbone.") else factor,
            lambda _name, _parameter: False,
        )
        return [ParamGroup(*group) for group in groups]

    def require_epochs(self, epochs: int) -> None:
        """Any number will do: phases are shares of it."""

    def begin_epoch(self, progress: Progress, calibration: Callable[[], Iterable[Any]]) -> None:
        """Nothing changes between epochs."""


def _after(share: float, progress: Progress) -> bool:
    """Whether more than `share` of all steps are behind this one; a share of 0 is the first step too."""
    return share <= 0 or progress.step > share * progress.steps


def build(backbone: ViT, classes: int, options: TrainOptions) -> More:
    """The network to train; a backbone without tokens is a `UsageError`."""
    if backbone.kind != "transformer":
        raise UsageError(
            "Method 'more' needs a vision transformer. "
            "Choose a --backbone such as deit_tiny_patch16_224, or --method cam."
        )
    return More(backbone, classes, options)


def needs(method: Any) -> str | None:
    """The maps are made of the graph's class tokens and of two patch heads."""
    if isinstance(method.classifier, GraphClassifier):
        return None
    return "the class tokens and heads of a checkpoint trained with more"


def localiser(method: Any, options: CamsOptions) -> Localise:
    """images (B, 3, H, W) -> raw maps (B, C, h, w), signed."""
    classifier = method.classifier

    def localise(images: Tensor) -> Tensor:
        tokens = classifier.tokens(images)
        if options.maps == "lam":
            with torch.autocast(images.device.type, enabled=False):  # a sum over hundreds of features
                maps = torch.einsum(
                    "bcd,bdhw->bchw", classifier.categories(tokens).float(), tokens.patches.float()
                )
                return maps - maps.mean(dim=(2, 3), keepdim=True) if options.zero == "mean" else maps
        main, aux = classifier.maps(tokens)
        result: Tensor = main if options.maps == "cam" else aux
        return result

    return localise


def stand_in(method: Any, options: CamsOptions) -> StandIn | None:
    """Classes that the segmentation branch gives `least_patches` patches; None for networks that have no branch."""
    classifier = method.classifier
    if not options.least_patches or not isinstance(classifier, GraphClassifier):
        return None

    def seen(images: Tensor) -> Tensor:
        winners = classifier.decoder(classifier.tokens(images).patches).argmax(dim=1)
        counts = F.one_hot(winners, 1 + classifier.head.out_channels).sum(dim=(1, 2))
        return counts[:, 1:] >= options.least_patches

    return seen


def views(options: CamsOptions) -> Views:
    """Mirror images by the maximum; a LAM keeps its sign where its zero is the minimum."""
    return Views(
        square=options.square,
        resample="plain",
        padding="mirrored" if options.padded else "none",
        mirrors="max",
        relu="never" if options.maps == "lam" and options.zero == "minimum" else "scales",
        epsilon=options.epsilon,
    )
