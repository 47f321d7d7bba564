"""Checkpoint and images -> one .npz of class maps an image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from wsss_cli.config import CamsConfig, Execution
from wsss_cli.data.cams import encode_cam
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Unlabelled
from wsss_cli.errors import ItemError
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.beside import Behind
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.steps.preparing import Localisation, Localised, Wanted, localise_block, prepare
from wsss_cli.steps.reading import BlockReader
from wsss_cli.summary import Summary


def run(
    checkpoint: Path,
    images: Path,
    out: Path,
    config: CamsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    labels: Path | None = None,
    label_format: str = "auto",
    label_regex: str = "",
    trust_pickle: bool = False,
    unlabelled: Unlabelled = "error",
    listing: Path | None = None,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    given: Collection[str] = (),
) -> Summary:
    """Localise the tagged classes of every image, or without `labels` those that the classifier finds.

    `classes` restricts the maps to some of the checkpoint's.
    """
    wanted = Wanted(labels, label_format, label_regex, trust_pickle, unlabelled, listing, limit, classes)
    work = prepare(checkpoint, images, config, execution, wanted, given)
    with Run(
        out, "cams", configuration=work.configuration, classes=work.names, inputs=work.inputs, suffix=".npz",
        facts=work.facts, ids=[sample.id for sample in work.samples],
        block=work.localiser.config.batch_size, execution=execution, reporter=reporter,
    ) as folder:  # fmt: skip
        work = work.of(folder.ids)
        told = {name: work.facts[name] for name in ("method", "tags")}
        if execution.dry_run:
            figures = {**work.configuration, "images": len(work.samples), "tags": told["tags"]}
            return Summary("cams", out, folder.counts, figures=figures)
        for note in work.notes:
            reporter.note(note)
        seed_everything(0)
        _localise_all(folder, work, execution, reporter)
    return Summary("cams", out, folder.counts, folder.failures, told)


def _localise_all(folder: Run, work: Localisation, execution: Execution, reporter: Reporter) -> None:
    reporter.start("images", len(work.samples))
    localiser = work.localiser
    reader = BlockReader(work.samples, work.tags, localiser.reading, localiser.max_pixels, folder.finished)
    ahead = 1 if localiser.config.tile else execution.workers  # an image that needs tiles may take gigabytes
    told = 0
    with Behind() as behind, closing(reader.blocks(localiser.config.batch_size, ahead)) as blocks:
        for number, block in enumerate(blocks, 1):
            for made in localise_block(
                localiser, block, lambda tile, of: reporter.advance(0, tile=tile, of=of)
            ):
                behind.call(_keep, folder, made)
            reached = min(number * localiser.config.batch_size, len(work.samples))
            reporter.advance(reached - told)
            told = reached


def _keep(folder: Run, made: Localised) -> None:
    """Write the maps of one image, unless they are there, or why it has none."""
    if made.inputs and folder.finished(made.id, made.inputs):
        return
    try:
        if isinstance(made.cam, ItemError):
            raise made.cam
        facts = {"size": list(made.cam.size), "classes": made.cam.classes.tolist()}
        folder.write(made.id, encode_cam(made.cam), inputs=made.inputs, **facts)
    except ItemError as error:
        folder.fail(made.id, error)
