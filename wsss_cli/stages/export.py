"""Masks folder (or cams folder) -> the files of another tool.

An exporter makes bytes; which image is next, what fails, and every write is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from wsss_cli.config import Execution, ExportConfig, as_dict, item_limit, require, whole_format
from wsss_cli.data.cams import decode_cam, upsample
from wsss_cli.data.copies import image_copy
from wsss_cli.data.files import can_link, sha256
from wsss_cli.data.folder import MAPS, MASKS, StageFolder, read_item, read_run, refuse_partial
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.limits import allowed
from wsss_cli.data.masks import decode_mask, ignore_value, palette
from wsss_cli.data.samples import select
from wsss_cli.data.tree import Tree
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.exports import EXPORTERS, Dataset, Exporter, Form, Maps, Scene
from wsss_cli.reporter import Reporter
from wsss_cli.summary import Summary
from wsss_cli.text import flat_name, show

_IRN_STRIDE = 4
_STAGES = {"masks": MASKS, "maps": MAPS}  # whose folders a format reads
ALWAYS = ("to", "worst")  # options of every format


def run(
    masks: Path,
    out: Path | None,
    config: ExportConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
    allow_partial: bool = False,
    given: Collection[str] = (),
) -> Summary:
    """Write every mask of `masks` in the format `config.to`; `out` None: `export-<format>`.

    `given` names the fields that the user typed, so that none is ignored in silence.
    """
    exporter = cast(Exporter, EXPORTERS.load(config.to))
    out = out or Path(f"export-{config.to}")
    config = _resolved(config, exporter.FORM, given)
    why = whole_format(config.to, apart=exporter.FORM.apart)
    require(execution.shard is None or not why, f"--shard cannot cut {why}. Pass --shard none.")
    folder = _folder(masks, exporter.FORM, config)
    ids = select(sorted({*folder.items, *folder.failures}), listing, limit, str(masks))
    refuse_partial(folder, ids, allow_partial)
    ids = _worst(folder, ids, config.worst)
    _check_names(ids, exporter.FORM, config)
    images = images_of(folder, "masks", allowed(execution, tiled=True)) if exporter.FORM.names_files else None
    if config.images == "link" and images is not None:
        places = {out, *images.paths.values()}
        require(can_link(places), "--images link needs images and --out on this machine. Pass --images copy.")
    made_of = sha256("\n".join([folder.fingerprint, *ids]).encode())
    tree = Tree(
        out, "export", configuration=as_dict(config), classes=folder.classes, ids=ids,
        inputs={"masks": {"path": str(masks.absolute()), "fingerprint": folder.recipe}},
        facts={"made_of": made_of}, execution=execution, reporter=reporter,
    )  # fmt: skip
    ignore = ignore_value(len(folder.classes))
    with tree:
        if not execution.dry_run and not tree.complete:
            dataset = Dataset(folder.classes, ignore, palette(ignore + 1), config)
            source = _Source(folder, images, exporter.FORM, config)
            reporter.start("export", len(tree.ids))
            for path, payload in exporter.export(dataset, _scenes(tree, source, reporter)):
                tree.write(path, payload)
    figures = {
        "to": config.to,
        "images": len(tree.ids),
        "image_files": config.images,
        "classes": len(folder.classes),
    }
    return Summary("export", out, tree.counts, tree.failures, figures)


def _resolved(config: ExportConfig, form: Form, given: Collection[str]) -> ExportConfig:
    """The configuration with what the format decides; what it does not use is back at its default."""
    for name in sorted({*given} - {*ALWAYS, *form.uses}):
        require(False, f"--{name.replace('_', '-')} does nothing with --to {config.to}. Leave it out.")
    default = ExportConfig(to=config.to)
    idle = {name: value for name, value in as_dict(default).items() if name not in form.uses}
    images = config.images if "images" in form.uses and config.images != "auto" else form.images
    return replace(config, **{**idle, "to": config.to, "worst": config.worst, "images": images})


def _worst(folder: StageFolder, ids: list[str], share: str) -> list[str]:
    """The ids with the lowest scores, in their order; all of them if `share` is ""."""
    able = [id_ for id_ in ids if id_ in folder.items]
    count = item_limit("--worst", share, len(able))
    if count is None:
        return ids
    scores = {id_: folder.items[id_].facts.get("score") for id_ in able}
    if None in scores.values():
        old = folder.stage == "pseudo-labels"
        why = "was made before scores were kept" if old else "has no scores"
        remedy = "Make it again." if old else "Pass a folder of 'wsss pseudo-labels'."
        raise RejectedInputError(f"{show(folder.path)} {why}, so --worst cannot choose. {remedy}")
    lowest = sorted(able, key=lambda id_: (scores[id_], id_))[: max(1, count)]
    return sorted(lowest)


def _check_names(ids: list[str], form: Form, config: ExportConfig) -> None:
    """UsageError if images that are not exported would not be found by the names that stand in the files."""
    if config.images != "none" or form.bare == "any":
        return
    remedy = "Pass --images copy or link."
    require(
        form.bare != "never", f"{config.to} is a table of image files, so --images none is none. {remedy}"
    )
    other = next((id_ for id_ in ids if "%" in id_ or flat_name(id_) != id_), None)
    require(
        other is None,
        f"{config.to} finds an image by the name of its mask, and that of '{show(other or '')}' is not the image's own "
        f"(folders, or characters that are encoded), so --images none would not find it. {remedy}",
    )


def _folder(path: Path, form: Form, config: ExportConfig) -> StageFolder:
    folder = read_run(path, *_STAGES[form.reads])
    many = len(folder.classes)
    if many > form.most_classes:
        raise RejectedInputError(
            f"{show(path)} has {many} classes; the masks of {config.to} hold {form.most_classes}. "
            "Choose another format with --to."
        )
    return folder


@dataclass(frozen=True)
class _Source:
    """Where scenes come from."""

    folder: StageFolder
    images: ImageFolder | None  # None where the format names no image files
    form: Form
    config: ExportConfig

    def scene(self, id_: str, tree: Tree) -> Scene:
        """One image with its mask or maps; its image is exported on the way (ItemError)."""
        payload = read_item(self.folder, id_)
        classes = len(self.folder.classes)
        if self.folder.stage in MAPS:
            maps, size = _maps(payload, classes)
            return Scene(id_, flat_name(id_), "", None, size, maps=maps)
        mask = decode_mask(payload, classes=classes)
        size = (mask.shape[0], mask.shape[1])
        suffix, image = self._image(id_, size, tree)
        score = self.folder.items[id_].facts.get("score")
        score = float(score) if isinstance(score, int | float) else None
        scene = Scene(id_, flat_name(id_), suffix, image, size, mask=mask, score=score)
        if self.form.listed and (scene.stem.startswith("#") or scene.stem != scene.stem.strip()):
            raise ItemError(
                "unfit-name",
                f"'{show(scene.stem)}' begins with '#' or has outer spaces: {self.config.to} would pass it over. "
                "Rename the image.",
            )
        return scene

    def _image(self, id_: str, size: tuple[int, int], tree: Tree) -> tuple[str, str | None]:
        """The suffix of the image's file, and the name of the exported image."""
        if self.images is None:
            return "", None
        path = self.images.path(id_)
        if self.config.images == "none":
            return path.suffix, None
        digest = self.folder.items[id_].inputs.get("image")
        copy = image_copy(path, self.images.reading, digest, size, self.images.max_pixels)
        below, name = self.form.image_folder.format(split=self.config.split), flat_name(id_) + copy.suffix
        if self.config.images == "link" and copy.same:
            tree.link(f"{below}/{name}", path.absolute())
        else:
            tree.write(f"{below}/{name}", copy.payload)
        return copy.suffix, name


def _maps(payload: bytes, classes: int) -> tuple[Maps, tuple[int, int]]:
    cam = decode_cam(payload, classes=classes)
    height, width = cam.size
    small = (-(-height // _IRN_STRIDE), -(-width // _IRN_STRIDE))
    full = upsample(cam)
    shrunk = cam.maps if cam.maps.shape[1:] == small else upsample(replace(cam, maps=full, size=small))
    return Maps(cam.classes, shrunk, full), cam.size


def _scenes(tree: Tree, source: _Source, reporter: Reporter) -> Iterator[Scene]:
    for id_ in tree.ids:
        tree.image(id_)
        try:
            scene = source.scene(id_, tree)
        except ItemError as error:
            tree.fail(id_, error)
        else:
            yield scene
        reporter.advance()
    tree.image("")
