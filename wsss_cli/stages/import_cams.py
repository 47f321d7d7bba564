"""A folder of another pipeline's `.npy` class maps -> a cams folder, as `wsss cams` would have written it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_cli.config import Execution, ImportCamsConfig, Reading, as_dict
from wsss_cli.data.cams import decode_cam, encode_cam
from wsss_cli.data.files import sha256
from wsss_cli.data.foreign_cams import decode_foreign_cam
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.images import read_image, read_regular
from wsss_cli.data.limits import allowed, most_bytes
from wsss_cli.data.masks import read_classes
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Sample, find_images, select
from wsss_cli.errors import ItemError, RejectedInputError, UnsafeFileError
from wsss_cli.reporter import Reporter
from wsss_cli.summary import Summary
from wsss_cli.text import encode_id, flat_name, show

STAGE = "cams"  # what is written is such a folder, and every command that takes one takes it


def run(
    source: Path,
    images: Path,
    out: Path,
    config: ImportCamsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    classes: Path,
    listing: Path | None = None,
    limit: int | None = None,
) -> Summary:
    """Read the maps of every image that has some; figures: how many files were of which form.

    `classes` names the class of every index. Without `trust_pickle` nothing is opened (UnsafeFileError).
    """
    names = read_classes(classes)
    work = _work(source, images, listing, limit)
    if not config.trust_pickle:
        raise UnsafeFileError(
            f"The maps in {show(source)} are pickles, which can run code when opened freely. If you know where they "
            "come from, pass --trust-pickle: then arrays are taken out of them, and nothing else."
        )
    inputs = {
        "maps": {"path": str(source.absolute()), "fingerprint": ""},
        "images": {"path": str(images.resolve()), "fingerprint": ""},
    }
    forms: Counter[str] = Counter()
    with Run(
        out, STAGE, configuration={**as_dict(config), "imported": True}, classes=names, inputs=inputs,
        ids=list(work.wanted), suffix=".npz", execution=execution, reporter=reporter,
        facts={**image_facts(images, config.reading), "method": "imported", "tags": "given"},
    ) as folder:  # fmt: skip
        if not execution.dry_run:
            if work.without:
                reporter.note(f"{work.without} of {work.images} images have no maps and are left out.")
            _import_all(folder, work, config.reading, len(names), forms, reporter, allowed(execution))
    figures: dict[str, Any] = {"images": len(work.wanted), "classes": len(names), "forms": dict(forms)}
    return Summary("import-cams", out, folder.counts, folder.failures, figures)


@dataclass(frozen=True)
class _Work:
    """The images to import, by id, and their maps; None where a listed image has none."""

    wanted: dict[str, tuple[Sample, Path | None]]
    images: int
    without: int


def _work(source: Path, images: Path, listing: Path | None, limit: int | None) -> _Work:
    samples = {sample.id: sample for sample in find_images(images)}
    files = _files(source, samples)
    known = sorted(files) if listing is None else sorted(samples)
    ids = select(known, listing, limit, str(source if listing is None else images))
    return _Work(
        {id_: (samples[id_], files.get(id_)) for id_ in ids}, len(samples), len(samples) - len(files)
    )


def _files(source: Path, samples: dict[str, Sample]) -> dict[str, Path]:
    """The `.npy` of each image: under its path, its id, or its id in one name, as `wsss export --to irn` writes it."""
    if not source.is_dir():
        raise RejectedInputError(f"{show(source)} is not a folder. Pass the one that holds the .npy files.")
    names = {flat_name(id_): id_ for id_ in samples} | {id_: id_ for id_ in samples}
    found: dict[str, Path] = {}
    strangers = []
    for path in sorted(source.rglob("*.npy")):
        name = path.relative_to(source).as_posix().removesuffix(".npy")
        id_ = names.get(name) or names.get(encode_id(name))
        if id_ is None:
            strangers.append(name)
        elif id_ in found:
            raise RejectedInputError(
                f"{show(path)} and {show(found[id_])} are both of '{show(id_)}'. Remove one."
            )
        else:
            found[id_] = path
    if strangers:
        raise RejectedInputError(
            f"{len(strangers)} of the .npy files in {show(source)} have no image, first: '{show(strangers[0])}'. "
            "Pass the folder of their images."
        )
    if not found:
        raise RejectedInputError(f"{show(source)} holds no .npy file. Pass the folder that holds them.")
    return found


def _import_all(
    folder: Run,
    work: _Work,
    reading: Reading,
    classes: int,
    forms: Counter[str],
    reporter: Reporter,
    max_pixels: int,
) -> None:
    reporter.start("import-cams", len(work.wanted))
    for id_, (sample, path) in work.wanted.items():
        try:
            if path is None:
                raise ItemError("missing", f"There are no maps of '{show(id_)}'.")
            form = _import_one(folder, sample, path, reading, classes, max_pixels)
        except ItemError as error:
            folder.fail(id_, error)
        else:
            forms.update([form] if form else [])
        reporter.advance()


def _import_one(
    folder: Run, sample: Sample, path: Path, reading: Reading, classes: int, max_pixels: int
) -> str:
    """Write the maps of one image; whose form they have, "" if they were there already."""
    payload = read_regular(path)
    inputs = {"maps": sha256(payload), "image": sha256(read_regular(sample.path, most_bytes(max_pixels)))}
    if folder.finished(sample.id, inputs):
        return ""
    image, _ = read_image(sample.path, reading, max_pixels=max_pixels)
    cam, form = decode_foreign_cam(payload, str(path), (image.shape[0], image.shape[1]))
    made = encode_cam(cam)
    decode_cam(made, classes=classes)  # what later stages will check: no class beyond the list
    folder.write(sample.id, made, inputs=inputs, size=list(cam.size), classes=cam.classes.tolist())
    return form
