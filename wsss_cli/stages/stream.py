"""Checkpoint and images -> masks, the very ones of cams, crf and pseudo-labels, with no maps on the disk.

The network runs in this process, the CRF and what follows it in worker processes beside it. Maps pass through the
bytes of their files, so that the masks are those of the three stages to the last bit.

The CRF's automatic threshold is the mean over the maps of all images. So they are made before the first mask: as many
as fit into HELD bytes are kept in memory, and the others are made a second time. `thresholds.json` keeps what each
image has to say, so that a resumed run need not ask again. A given threshold needs none of this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_cli.config import (
    CRF_PRESETS,
    CrfConfig,
    Execution,
    StreamConfig,
    as_dict,
    choose_preset,
    require,
    resolve,
    whole_stream,
)
from wsss_cli.data.cams import decode_cam, encode_cam
from wsss_cli.data.masks import classes_txt, ignore_value
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Sample
from wsss_cli.errors import ItemError
from wsss_cli.ops.pseudo import mean_threshold, own_threshold
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.beside import Behind, ahead
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.steps.labelling import Labelled, Rule, given_rule, pixel_figures
from wsss_cli.steps.masking import MASK, MaskWork, labelled
from wsss_cli.steps.preparing import Localisation, Localised, Wanted, localise_block, prepare
from wsss_cli.steps.reading import BlockReader, Finished, Image, Unreadable
from wsss_cli.steps.refining import Refined
from wsss_cli.steps.spreading import Crew, crf_device, crf_threshold, refine_all
from wsss_cli.summary import Summary

THRESHOLDS = "thresholds.json"
HELD = 1 << 30  # bytes of maps
SECONDS_BETWEEN_SAVES = 300.0  # of thresholds.json


def run(
    checkpoint: Path,
    images: Path,
    out: Path,
    config: StreamConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    given: Collection[str] = (),
    crf_given: Collection[str] = (),
    **wanted: Any,
) -> Summary:
    """Write a mask of every image; the presets set what is not in `given` (of cams) and `crf_given`.

    `wanted`: which images and classes, as `Wanted` has it.
    """
    work = prepare(checkpoint, images, config.cams, execution, Wanted(**wanted), given)
    crf = resolve(config.crf, choose_preset(CRF_PRESETS, config.crf.preset), crf_given)
    why = whole_stream(crf)
    require(execution.shard is None or not why, why)
    device = crf_device(crf, execution)
    rule = given_rule(config.labels, marginals=True)
    assert rule is not None  # marginals always have one
    labels = {**as_dict(config.labels), "rule": rule.name}
    configuration = {"cams": work.configuration, "crf": as_dict(crf), "pseudo-labels": labels}
    chosen = {"rule": rule.name, "threshold": rule.threshold, "ignore_band": rule.band}
    stage = Run(
        out, "stream", configuration=configuration, classes=work.names, inputs=work.inputs, suffix=".png",
        facts={**work.facts, "ignore": ignore_value(len(work.names)), **chosen},
        ids=[sample.id for sample in work.samples], block=work.localiser.config.batch_size,
        execution=execution, reporter=reporter,
    )  # fmt: skip
    with stage:
        work = work.of(stage.ids)
        if execution.dry_run:
            return Summary(
                "stream", out, stage.counts, figures={**configuration, "images": len(work.samples)}
            )
        for note in work.notes:
            reporter.note(note)
        seed_everything(0)
        stage.extra("classes.txt", classes_txt(work.names))
        stream = _Stream(stage, work, crf, rule, Crew(device, execution.workers), reporter)
        stream.mask_all()
    facts = (item.facts for item in stage.items.values())
    figures = {**chosen, "threshold_used": stream.threshold, **pixel_figures(facts, reporter)}
    return Summary("stream", out, stage.counts, stage.failures, figures)


@dataclass(frozen=True)
class _Maps:
    """The bytes of the cams file that an image would have, or why it has none."""

    id: str
    inputs: dict[str, str]
    payload: bytes | ItemError


@dataclass
class _Stream:
    """Images on their way to masks."""

    stage: Run
    work: Localisation
    crf: CrfConfig
    rule: Rule
    crew: Crew
    reporter: Reporter
    threshold: float = 0.0  # of the CRF; known once it was looked for
    held: dict[str, _Maps] = field(default_factory=dict)  # maps that were made to find it

    def mask_all(self) -> None:
        """Make the masks that are not there yet."""
        self.threshold = crf_threshold(self.crf, self._automatic)
        self.reporter.start("masks", len(self.work.samples))
        given: dict[str, tuple[_Maps, MaskWork | None]] = {}  # what the workers have
        with Behind() as behind, closing(self._todo()) as todo:
            results = refine_all(self._tasks(todo, given), self.crew, self.reporter, MASK)
            with closing(results):
                for id_, result in results:
                    behind.call(self._keep, *given.pop(id_), result)
                    self.reporter.advance()

    def _automatic(self) -> float:
        """The threshold that suits the maps of all images; as many of them as there is room for are held."""
        known = json.loads(self.stage.kept(THRESHOLDS) or b"{}")
        found: dict[str, Any] = {}

        def finished(id_: str, inputs: Mapping[str, str]) -> bool:
            same = id_ in known and known[id_]["inputs"] == inputs
            if same:
                found[id_] = known[id_]
            return same

        self.reporter.start("thresholds", len(self.work.samples))
        room, saved = HELD, time.monotonic()
        with closing(self._made(finished)) as blocks:
            for samples, block in blocks:
                for maps in block:
                    if isinstance(maps.payload, ItemError):
                        continue  # told when its mask should be made
                    own = own_threshold(decode_cam(maps.payload, classes=len(self.work.names)).maps)
                    found[maps.id] = {"inputs": maps.inputs, "threshold": own}
                    room -= len(maps.payload)
                    if room >= 0:
                        self.held[maps.id] = maps
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self._save(found)
                    saved = time.monotonic()
                self.reporter.advance(len(samples))
        self._save(found)
        if room < 0:
            self.reporter.note(
                f"The maps of {len(self.held)} images fill {HELD >> 20} MiB; those of the others are made twice. "
                f"--crf-set threshold={crf_threshold(self.crf, lambda: _mean(found))} makes them once."
            )
        return _mean(found)

    def _save(self, found: Mapping[str, Any]) -> None:
        ordered = {id_: found[id_] for id_ in sorted(found)}
        self.stage.extra(THRESHOLDS, json.dumps(ordered, allow_nan=False).encode("ascii") + b"\n")

    def _made(self, finished: Finished) -> Generator[tuple[Sequence[Sample], list[_Maps]], None, None]:
        """Block by block its images and the maps of those that are not `finished`, one block ahead."""
        localiser, samples = self.work.localiser, self.work.samples
        reader = BlockReader(samples, self.work.tags, localiser.reading, localiser.max_pixels, finished)
        size = localiser.config.batch_size
        threads = 1 if localiser.config.tile else self.crew.workers  # an image may take gigabytes

        def make(block: Sequence[Image | Unreadable]) -> list[_Maps]:
            made = localise_block(localiser, block, lambda *_: None)
            return [_encoded(one) for one in made if not (one.inputs and finished(one.id, one.inputs))]

        with closing(reader.blocks(size, threads)) as blocks, closing(ahead(make, blocks, 1)) as done:
            for number, maps in enumerate(done):
                yield samples[number * size : (number + 1) * size], maps

    def _todo(self) -> Generator[_Maps, None, None]:
        """The maps of the images whose masks are to be made: first those that are held."""
        before = frozenset(self.held)
        for id_ in sorted(before):
            maps = self.held.pop(id_)
            if self._finished(id_, maps.inputs):
                self.reporter.advance()
            else:
                yield maps
        if len(before) == len(self.work.samples):
            return
        with closing(self._made(lambda id_, inputs: id_ in before or self._finished(id_, inputs))) as blocks:
            for samples, block in blocks:
                block = [maps for maps in block if maps.id not in before]  # one that is unreadable by now
                self.reporter.advance(sum(sample.id not in before for sample in samples) - len(block))
                yield from block

    def _finished(self, id_: str, inputs: Mapping[str, str]) -> bool:
        return self.stage.finished(id_, self._inputs(inputs))

    def _inputs(self, inputs: Mapping[str, str]) -> dict[str, str]:
        """What a mask is made from; the threshold is among it, as an automatic one moves with the other images."""
        return {**inputs, "threshold": str(self.threshold)}

    def _tasks(
        self, todo: Iterable[_Maps], given: dict[str, tuple[_Maps, MaskWork | None]]
    ) -> Iterator[tuple[str, MaskWork | ItemError]]:
        """The work of each image, which is noted in `given`."""
        paths, localiser = {sample.id: sample.path for sample in self.work.samples}, self.work.localiser
        for maps in todo:
            if isinstance(maps.payload, ItemError):
                given[maps.id] = maps, None
                yield maps.id, maps.payload
                continue
            task = MaskWork(
                maps.payload, paths[maps.id], localiser.reading, maps.inputs["image"], len(self.work.names),
                self.crf, self.threshold, self.crew.device, localiser.max_pixels, self.rule, self.work.names,
            )  # fmt: skip
            given[maps.id] = maps, task
            yield maps.id, task

    def _keep(self, maps: _Maps, task: MaskWork | None, result: Labelled | Refined | ItemError) -> None:
        """Write the mask of one image, or why it has none."""
        try:
            if isinstance(result, ItemError):
                raise result
            if isinstance(result, Refined):  # of a large image, which was refined by windows
                assert task is not None
                result = labelled(result, task)
            self.stage.write(maps.id, result.payload, inputs=self._inputs(maps.inputs), **result.facts)
        except ItemError as error:
            self.stage.fail(maps.id, error)


def _encoded(made: Localised) -> _Maps:
    try:
        payload = made.cam if isinstance(made.cam, ItemError) else encode_cam(made.cam)
    except ItemError as error:
        payload = error
    return _Maps(made.id, made.inputs, payload)


def _mean(found: Mapping[str, Any]) -> float:
    return mean_threshold(found[id_]["threshold"] for id_ in sorted(found))
