"""README and docs say what the program does: names, defaults, commands, links, and examples that run."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wsss_cli.stages
from wsss_cli import cli, config, errors
from wsss_cli.cli import commands, main
from wsss_cli.cli.commands import COMMANDS
from wsss_cli.data.masks import encode_mask
from wsss_cli.data.run import Run
from wsss_cli.exports import EXPORTERS
from wsss_cli.labels import LABEL_READERS, read_labels
from wsss_cli.methods import METHODS
from wsss_cli.refiners import REFINERS
from wsss_cli.releases import RELEASES
from wsss_cli.reporter import Silent
from wsss_cli.summary import Summary

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
STAGES = (
    "train_cls", "cams", "refine", "crf", "pseudo_labels", "stream", "train_seg", "predict", "eval", "import_weights",
    "export", "import_cams",
)  # fmt: skip
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return FENCE.findall(text(page))


def section(page: Path, heading: str) -> str:
    """What stands below one heading, up to the next."""
    parts = re.split(r"^#+ (.*)$", FENCE.sub("", text(page)), flags=re.MULTILINE)
    (found,) = (body for title, body in zip(parts[1::2], parts[2::2], strict=True) if title == heading)
    return found


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head; no table is no row."""
    lines = [line for line in section(page, heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> str:
    """The name between backticks."""
    match = re.fullmatch(r"`([^`]+)`", cell)
    assert match, f"{cell!r} is no `name`"
    return match[1]


def plain(value: Any) -> str:
    """A default as the tables write it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# -- names -------------------------------------------------------------------------------------------------


def test_every_command_is_in_the_readme() -> None:
    """The table of stages has one row a command, in the order of the help text."""
    rows = [code(row[0]).split()[1] for row in table(README, "Stages")]

    assert rows == list(COMMANDS)


def test_every_method_is_in_the_readme() -> None:
    """The table of methods has one row a method, and docs/methods.md a section."""
    assert [code(row[0]) for row in table(README, "Methods")] == list(METHODS.names())
    assert [code(row[0]) for row in table(DOCS / "methods.md", "Methods")] == list(METHODS.names())
    assert all(section(DOCS / "methods.md", f"`{name}`").strip() for name in METHODS.names())


def test_every_release_is_documented() -> None:
    """docs/import-weights.md has one row a release, in the order of the help text."""
    rows = [code(row[0]) for row in table(DOCS / "import-weights.md", "Releases")]

    assert rows == list(RELEASES.names())


def test_options_of_releases_are_documented() -> None:
    """docs/import-weights.md says which release uses which option, and no option is left out."""
    rows = {
        code(row[0]): row[1].split(", ")
        for row in table(DOCS / "import-weights.md", "Which release uses which option")
    }
    uses = {name: RELEASES.load(name).USES for name in RELEASES.names()}

    assert {option: [code(name) for name in names] for option, names in rows.items()} == {
        option: [name for name in uses if option.removeprefix("--").replace("-", "_") in uses[name]]
        for option in rows
    }
    assert {row.removeprefix("--").replace("-", "_") for row in rows} == {
        use for used in uses.values() for use in used
    }


def test_every_label_format_is_documented() -> None:
    """README and docs/folders.md name each reader."""
    for name in LABEL_READERS.names():
        assert f"`{name}`" in section(README, "Your own images")
        assert f"**`{name}`:" in section(DOCS / "folders.md", "Labels")


def test_every_export_format_is_documented() -> None:
    """README and docs/folders.md have a row for each, and the README says what becomes of do-not-know pixels."""
    rows = table(README, "Export formats")

    assert [code(row[0]) for row in rows] == list(EXPORTERS.names())
    assert all(row[2] for row in rows)
    assert [code(row[0]) for row in table(DOCS / "folders.md", "Exports")] == list(EXPORTERS.names())


def test_exit_codes_are_those_of_the_program() -> None:
    """One row for each exit code that an error has, and those that are no error of ours."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.WsssError)}
    others = {0, cli.BUG, cli.INTERRUPTED, 143, cli.READER_GONE}
    rows = [row[0] for row in table(README, "Exit codes")]

    assert {int(number) for row in rows for number in row.split("/")} == codes | others


# -- options and defaults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize(("command", "kind"), [("train-cls", "TrainOptions"), ("cams", "CamsOptions")])
def test_option_tables_equal_the_dataclasses(method: str, command: str, kind: str) -> None:
    """Every option of a method is listed with its default, in the order of the dataclass."""
    rows = table(DOCS / "methods.md", f"Options of `wsss {command} --method {method}`")
    fields = dataclasses.fields(getattr(METHODS.load(method), kind))

    assert [(code(row[0]), code(row[1])) for row in rows] == [(f.name, plain(f.default)) for f in fields]
    assert all(row[2] for row in rows)


def settings(cell: str) -> list[str]:
    return [] if cell == "nothing" else [code(part) for part in cell.split(", ")]


@pytest.mark.parametrize("method", METHODS.names())
def test_preset_tables_equal_the_modules(method: str) -> None:
    """Every preset but the empty default is listed with all that it sets."""
    module = METHODS.load(method)
    listed = {
        (code(row[0]), row[1]): settings(row[2])
        for row in table(DOCS / "methods.md", f"Presets of `{method}`")
    }
    known = {}
    for command, presets in (("train-cls", module.TRAIN_PRESETS), ("cams", module.CAMS_PRESETS)):
        for name, preset in presets.items():
            values = {**{k: v for k, v in preset.items() if k != "options"}, **preset.get("options", {})}
            if values or name != "default":
                known[name, command] = [f"{key}={plain(value)}" for key, value in values.items()]

    assert listed == known


def test_crf_presets_equal_the_configuration() -> None:
    """The published settings of the CRF are listed to the number."""
    listed = {code(row[0]): settings(row[1]) for row in table(DOCS / "methods.md", "Presets of `wsss crf`")}

    assert listed == {
        name: [f"{key}={plain(value)}" for key, value in preset.items()]
        for name, preset in config.CRF_PRESETS.items()
    }


@pytest.mark.parametrize("name", REFINERS.names())
def test_refiner_tables_equal_the_modules(name: str) -> None:
    """Every refiner is listed, with its options, their defaults, and all that its presets set."""
    page, module = DOCS / "methods.md", REFINERS.load(name)
    options = table(page, f"Options of `wsss refine --method {name}`")
    fields = dataclasses.fields(module.Options)
    flat = {
        preset: {**{k: v for k, v in values.items() if k != "options"}, **values.get("options", {})}
        for preset, values in module.PRESETS.items()
        if values
    }
    heading = f"Presets of `wsss refine --method {name}`"
    listed = {code(row[0]): settings(row[1]) for row in table(page, heading)} if flat else {}

    assert [code(row[0]) for row in table(page, "Refining maps")] == list(REFINERS.names())
    assert [(code(row[0]), code(row[1])) for row in options] == [(f.name, plain(f.default)) for f in fields]
    assert all(row[2] for row in options)
    assert listed == {p: [f"{key}={plain(value)}" for key, value in v.items()] for p, v in flat.items()}


# -- command lines -----------------------------------------------------------------------------------------


def command_lines() -> Iterator[tuple[str, str]]:
    """Every `wsss ...` line in a block of README, docs and the Makefile, with where it stands."""
    sources = [(page.name, body) for page in PAGES for language, body in blocks(page) if language != "python"]
    sources.append(
        ("Makefile", text(ROOT / "Makefile").replace("$(BIN)/wsss", "wsss").replace("$(DEMO)", "demo"))
    )
    for name, body in sources:
        for line in body.replace("\\\n", " ").splitlines():
            typed = line.strip().removeprefix("$ ").partition(" #")[0]
            if typed.startswith("wsss "):
                yield name, re.split(r"\|| > ", typed)[0].strip()


LINES = list(command_lines())


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that only check what they are told to do; the list of those that were called."""
    called: list[str] = []

    def pretend(stage: str) -> SimpleNamespace:
        def run(*positional: Any, **_: Any) -> Summary:
            *_, out, chosen, _, _ = positional
            called.append(stage)
            check_method_options(stage, chosen)
            return Summary(stage, out, None, {}, {"miou": 1.0} if stage == "eval" else {})

        return SimpleNamespace(run=run, check_truth=lambda *_: None, item_figures=None)

    for stage in STAGES:
        monkeypatch.setattr(wsss_cli.stages, stage, pretend(stage), raising=False)

    def diagnose(*_: Any, **__: Any) -> SimpleNamespace:
        called.append("doctor")
        return SimpleNamespace(errors=[], warnings=[], figures={})

    monkeypatch.setattr(wsss_cli.stages, "doctor", SimpleNamespace(run=diagnose), raising=False)
    drawn = SimpleNamespace(run=lambda *_, **__: None, one=lambda *_, **__: called.append("show"))
    drawn.overlay = lambda folder: (folder / "overlay.png", [])
    monkeypatch.setattr(wsss_cli.stages, "show", drawn, raising=False)
    reported = SimpleNamespace(run=lambda *_, **__: called.append("report") or {})
    monkeypatch.setattr(wsss_cli.stages, "report", reported, raising=False)
    looked = SimpleNamespace(run=lambda *_, **__: called.append("status") or [])
    monkeypatch.setattr(wsss_cli.stages, "status", looked, raising=False)
    merged = SimpleNamespace(run=lambda *_, **__: called.append("merge") or [])
    monkeypatch.setattr(wsss_cli.stages, "merge", merged, raising=False)
    spread = SimpleNamespace(Way=lambda run, *_: run, spread=lambda run: run)
    monkeypatch.setattr(wsss_cli.stages, "distributed", spread, raising=False)
    return called


def check_method_options(stage: str, chosen: Any) -> None:
    """--method, --preset and --set as the stage itself takes them."""
    kinds = {"train_cls": ("TrainOptions", "TRAIN_PRESETS"), "cams": ("CamsOptions", "CAMS_PRESETS")}
    if (
        stage not in kinds or chosen.method not in METHODS.names()
    ):  # "" is the checkpoint's, "lse" an example's
        return
    module = METHODS.load(chosen.method)
    options, presets = (getattr(module, name) for name in kinds[stage])
    preset = {} if chosen.preset == "auto" else config.choose_preset(presets, chosen.preset)
    config.method_options(options, preset, chosen.options)


def test_there_are_command_lines() -> None:
    """The pages show every command at work, and the Makefile runs the demo."""
    called = {line.split()[1] for _, line in LINES}

    assert set(COMMANDS) <= called
    assert [line.split()[:2] for name, line in LINES if name == "Makefile"] == [["wsss", "run"]]


@pytest.mark.parametrize("line", [pytest.param(line, id=f"{page}: {line}") for page, line in LINES])
def test_every_command_line_is_accepted(line: str, pretended: list[str]) -> None:
    """The real parser and the real configurations take what the pages tell users to type."""
    arguments = shlex.split(line)[1:]

    assert main(arguments) == 0
    assert pretended or {"--help", "--version", "slurm"} & set(arguments)
    for argument in arguments:
        assert not argument.startswith("sample_data") or (ROOT / argument).exists()


def test_inline_commands_exist() -> None:
    """A command or an option named in a sentence is one that the program has."""
    known = {flag for command in map(commands.build, COMMANDS) for p in command.params for flag in p.opts}
    for page in PAGES:
        for inline in re.findall(r"`([^`\n]+)`", FENCE.sub("", text(page))):
            words = inline.split()
            if words[0] == "wsss" and len(words) > 1 and words[1].islower():
                assert words[1] in COMMANDS or words[1].startswith("-"), f"{page.name}: {inline}"
            for flag in (word for word in words if re.fullmatch(r"--[a-z-]+", word)):
                assert flag in known | {"--help", "--version"}, f"{page.name}: {inline}"


# -- links and words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """Files and pictures that a page points to are in the repository."""
    for target in re.findall(r"(?:\]\(|src=\")([^)\"\s]+)", text(page)):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_hold_no_paths_of_a_machine(page: Path) -> None:
    """What is written for users names no folder of somebody's computer."""
    assert re.findall(r"/(?:work|home|root|Users|tmp|mnt)/\S*", text(page)) == []


def test_the_picture_is_small() -> None:
    """The picture of the README loads quickly."""
    assert (DOCS / "overlay.png").stat().st_size < 300_000


# -- the examples of docs/extending.md ---------------------------------------------------------------------


def example(name: str, folder: Path) -> str:
    """Write the example `name` of the page into `folder`; the module's name."""
    page = text(DOCS / "extending.md")
    match = re.search(rf"^`\S*/{name}\.py`:\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert match
    (folder / f"example_{name}.py").write_text(match[1], encoding="utf-8")
    return f"example_{name}"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("example_") and name not in before]:
        del sys.modules[name]


def test_the_example_method_trains_and_localises(
    images: Path, modules: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file and one line give a method that works in both commands, with its own option."""
    monkeypatch.setitem(METHODS._modules, "lse", example("lse", modules))
    labels = modules / "labels.csv"
    labels.write_text("image,classes\n0,cat\n1,dog\n2,cat;dog\n3,\n")
    train = ["train-cls", str(images), "--labels", str(labels), "--method", "lse", "--set", "sharpness=4"]
    cls, cams = modules / "cls", modules / "cams"

    assert (
        main([*train, "--backbone", "tiny", "--epochs", "1", "--image-size", "32", "-q", "-o", str(cls)]) == 0
    )
    assert (
        main(["cams", f"{cls}/ckpt.pt", str(images), "--labels", str(labels), "-o", str(cams), "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert (said["method"], said["counts"]["done"]) == ("lse", 4)
    manifest = json.loads((cls / "manifest.json").read_text())
    assert manifest["configuration"]["options"] == {"sharpness": 4.0}


def test_the_example_label_format_is_found_by_itself(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and one line give a format that --labels recognises, with the line of what is wrong."""
    monkeypatch.setitem(LABEL_READERS._modules, "tag-lines", example("tag_lines", modules))
    tags = modules / "photos.tags"
    tags.write_text("holiday/0001.jpg: dog, chair\n\nholiday/0002.jpg:\n")

    assert dict(read_labels(tags).table) == {"holiday/0001": {"dog", "chair"}, "holiday/0002": frozenset()}
    tags.write_text("holiday/0001.jpg dog\n")
    with pytest.raises(errors.RejectedInputError, match="line 1 has no colon"):
        read_labels(tags)


def test_the_example_export_format_works(
    images: Path, modules: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file and one line give a format that `--to` knows, resumable as the others."""
    monkeypatch.setitem(EXPORTERS._modules, "runs", example("runs", modules))
    masks, out = modules / "masks", modules / "out"
    mask = np.zeros((2, 4), np.uint8)
    mask[0, 1:3], mask[1, 0] = 1, 255
    with Run(
        masks, "pseudo-labels", configuration={}, classes=("cat",), inputs={}, ids=["0"], suffix=".png",
        facts={"images": str(images)}, execution=config.Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        run.write("0", encode_mask(mask, ("cat",)), inputs={})

    assert main(["export", str(masks), "--to", "runs", "-o", str(out), "-q"]) == 0
    assert (out / "0.txt").read_text() == "0 1 2 5\n"
    assert main(["export", str(masks), "--to", "runs", "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["skipped"] == 1


@pytest.mark.parametrize(
    ("name", "registry"), [("lse", METHODS), ("tag-lines", LABEL_READERS), ("runs", EXPORTERS)]
)
def test_the_line_of_each_example_names_its_file(name: str, registry: Any) -> None:
    """The line that the page shows has the form of the lines in the table, and the path of the file above it."""
    page = text(DOCS / "extending.md")
    (path,) = re.findall(rf'^ +"{name}": "(\S+)",$', page, re.MULTILINE)

    assert f"`{path.replace('.', '/')}.py`:" in page
    assert path.rpartition(".")[0] == registry.path(registry.names()[0]).rpartition(".")[0]
