"""The layer rules of the package, read from the syntax trees: who imports whom, what stays light, short."""

from __future__ import annotations

import ast
import importlib
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsss_cli.registry import Registry

ROOT = Path(__file__).parents[1] / "wsss_cli"
MODULES = {
    ".".join(("wsss_cli", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
LEAVES = {"errors", "text", "summary", "reporter", "registry", "inert_pickle", "timing", "ranks", "storage"}
# layer -> layers that its files may import, besides the leaves
LAYERS = {
    "cli": {"cli", "config", "stages", "methods", "nets", "labels", "exports", "releases"},
    "scoring": {"data", "ops"},
    "stages": {
        *("config", "data", "labels", "exports", "pages", "methods", "refiners", "nets", "ops", "releases"),
        *("runtime", "scoring", "steps"),
    },
    "steps": {"steps", "config", "data", "labels", "methods", "nets", "ops", "runtime"},
    "refiners": {"refiners", "config", "data", "methods", "nets", "ops", "runtime"},
    "methods": {"methods", "nets", "ops"},
    "nets": {"nets"},
    "ops": {"ops"},
    "labels": {"labels"},
    "exports": {"exports", "ops"},
    "releases": {"releases", "nets"},
    "pages": {"pages"},
    "data": {"data", "config"},
    "runtime": {"runtime"},
    "config": {"config"},
    "registry": set(),
}
FORBIDDEN_NAMES = {"utils", "util", "misc", "tools", "common", "helpers", "core", "base"}
HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "skimage", "pydensecrf"}
# The one label format that has pixels; it imports Pillow when it is read, not when formats are compared.
PIXELS = {"wsss_cli.labels.masks": {"PIL"}}
LONGEST_BODY = 60
DANGEROUS = (  # what would run code out of a data file, or take a broken one for whole
    *("allow_pickle=True", "weights_only=False", "pickle.load", "yaml.load"),
    *("MAX_IMAGE_PIXELS = None", "LOAD_TRUNCATED_IMAGES = True"),
)


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            source = node.module or ""
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in MODULES else source


def layer(module: str) -> str:
    """`wsss_cli.ops.cam` -> `ops`; the package itself -> ``."""
    return module.partition(".")[2].partition(".")[0]


def ours(module: str) -> list[str]:
    return [name for name in imports(MODULES[module]) if name.split(".")[0] == "wsss_cli"]


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) in LAYERS])
def test_layer_imports_only_what_is_below(module: str) -> None:
    """A file imports only from the layers that the table allows, and a package its own parts."""
    allowed = LAYERS[layer(module)] | LEAVES | {""}
    foreign = {name for name in ours(module) if not name.startswith(f"{module}.")}

    assert {name for name in foreign if layer(name) not in allowed} == set()


def test_every_file_has_a_layer() -> None:
    """No file stands outside the table."""
    assert {layer(name) for name in MODULES} - set(LAYERS) - LEAVES <= {"", "__main__"}


def siblings(module: str) -> set[str]:
    """Imports of `module` from its own package that the rules forbid."""
    package = module.rpartition(".")[0]
    same = {name for name in ours(module) if name.rpartition(".")[0] == package and name in MODULES}
    shared = {f"wsss_cli.cli.{name}" for name in ("options", "console", "job", "progress", "settings")}
    shared.add("wsss_cli.exports.pictures")
    return same - shared - {module}


@pytest.mark.parametrize("package", ["cli", "stages", "methods", "refiners", "labels", "exports", "releases"])
def test_siblings_do_not_import_each_other(package: str) -> None:
    """No command imports a command, no stage a stage, no method a method, and so on."""
    found = {name: siblings(name) for name in MODULES if name.startswith(f"wsss_cli.{package}.")}

    assert {name: bad for name, bad in found.items() if bad} == {}


def test_command_imports_its_own_stage_only() -> None:
    """`cli/x.py` reaches `stages/x.py` and no other; only `run` calls them all, and --overlay of each draws."""
    commands = [name for name in MODULES if layer(name) == "cli" and name != "wsss_cli.cli.run"]
    own = {name: {used for used in ours(name) if layer(used) == "stages"} for name in commands}

    own["wsss_cli.cli.job"] -= {"wsss_cli.stages.show"}  # --overlay, of every command that has it
    own["wsss_cli.cli.job"] -= {"wsss_cli.stages.distributed", "wsss_cli.stages.merge"}  # --executor ray
    foreign = {name: used - {name.replace(".cli.", ".stages.")} for name, used in own.items()}

    assert {name: used for name, used in foreign.items() if used} == {}


def test_torch_stays_out_of_the_light_layers() -> None:
    """cli, labels, config and registry name no numerical library; data needs torch for weights only."""
    light = [name for name in MODULES if layer(name) in {"cli", "labels", "config", "registry", *LEAVES}]
    heavy = {name: {used.split(".")[0] for used in imports(MODULES[name])} & HEAVY for name in light}
    torch = {name for name in MODULES if layer(name) == "data" and "torch" in set(imports(MODULES[name]))}

    assert {name: used for name, used in heavy.items() if used} == PIXELS
    assert torch <= {"wsss_cli.data.checkpoints", "wsss_cli.data.resume"}


def test_help_is_light() -> None:
    """`wsss --help` loads no numerical library."""
    program = "import sys; from wsss_cli.cli import main; main(['--help']); sys.exit(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert set(done.stderr.split()) & HEAVY == set()
    assert "pseudo-labels" in done.stdout


def registries() -> list[tuple[str, str, str]]:
    found = []
    for module in MODULES:
        if "Registry(" in MODULES[module].read_text(encoding="utf-8") and module != "wsss_cli.registry":
            for value in vars(importlib.import_module(module)).values():
                if isinstance(value, Registry):
                    found += [(value.what, name, value.path(name)) for name in value.names()]
    return found


@pytest.mark.parametrize(("what", "name", "target"), registries())
def test_registry_targets_exist(what: str, name: str, target: str) -> None:
    """Every name in a registry points to a module of the package."""
    assert target in MODULES, f"{what} {name}"


@pytest.mark.parametrize("module", MODULES)
def test_file_keeps_the_budgets(module: str) -> None:
    """No print, no body of more than 60 lines, no name that says nothing."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.body[0].lineno >= LONGEST_BODY]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]

    assert long == []
    assert [call for call in calls if isinstance(call, ast.Name) and call.id == "print"] == []
    assert module.rpartition(".")[2] not in FORBIDDEN_NAMES


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_opened_the_dangerous_way(module: str) -> None:
    """Data is not code: no reader that unpickles, none that accepts half a file."""
    text = MODULES[module].read_text(encoding="utf-8")

    assert [word for word in DANGEROUS if word in text] == []


def test_tests_have_no_network() -> None:
    """The fixture that closes the network works."""
    with pytest.raises(AssertionError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(AssertionError, match="no network"):
        urllib.request.urlopen("http://example.org")
