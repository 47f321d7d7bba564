"""Data is not code, and one module writes: forbidden words and calls are looked for in every source file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "wsss_cli"
WRITER = PACKAGE / "data" / "files.py"
FORBIDDEN = (
    *("allow_pickle=True", "weights_only=False", "pickle.load", "yaml.load", "yaml.unsafe_load"),
    *("MAX_IMAGE_PIXELS = None", "LOAD_TRUNCATED_IMAGES = True", "extractall("),
)
MODES = frozenset("wax+")
# These write to a path or to a stream in memory: allowed only if the target is named like the latter.
SAVERS = ("save", "savez", "savez_compressed", "savefig", "save_file", "savetxt")
STREAMS = ("BytesIO", "buffer", "stream", "member")
UNPICKLER = PACKAGE / "inert_pickle.py"  # behind --trust-pickle, with stand-ins for every name
OTHER_PICKLES = ("_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
SOURCES = sorted(PACKAGE.rglob("*.py"))


def offences(source: str) -> Iterator[str]:
    """Every call in the source that opens or makes a file to write into it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (called := _name(node.func)) and _writes(called, node):
            yield f"line {node.lineno}: {ast.unparse(node)[:60]}"


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _writes(called: str, node: ast.Call) -> bool:
    if called in ("write_text", "write_bytes", "touch", "O_CREAT", "mkstemp", "NamedTemporaryFile"):
        return True
    if called in ("open", "fdopen") and "os.devnull" not in ast.unparse(node):
        return any(_is_mode(argument) for argument in [*node.args, *(word.value for word in node.keywords)])
    if called in SAVERS:
        words = {word.arg: word.value for word in node.keywords}
        # torch.save(value, target), everything else (target, ...)
        is_torch = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "torch"
        targets = [
            *node.args[int(is_torch) :][:1],
            *(words[name] for name in ("f", "fp", "file") if name in words),
        ]
        return not any(stream in ast.unparse(target) for target in targets for stream in STREAMS)
    return False


def _is_mode(argument: ast.expr) -> bool:
    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
        return False
    return (
        len(argument.value) <= 3
        and bool(MODES & set(argument.value))
        and set(argument.value) <= set("rwaxbt+")
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_source_opens_no_file_the_dangerous_way(path: Path) -> None:
    """No reader that runs code, none that accepts half an image."""
    text = path.read_text(encoding="utf-8")

    assert [word for word in FORBIDDEN if word in text] == []


# Who may name the module, what of it, and why.
PICKLE = {
    "data/checkpoints.py": {"pickle.UnpicklingError"},  # the error that torch raises, which is caught
    "exports/irn.py": {"pickle.dumps"},  # IRN's scripts open nothing else; nothing is read
    # Behind --trust-pickle, with a table of stand-ins in the place of every function.
    "inert_pickle.py": {"pickle._Unpickler", "pickle.BYTEARRAY8"},
}


def unpicklers(tree: ast.AST) -> Iterator[str]:
    """What a file takes of pickle and its kin."""
    imported = {"pickle": "pickle"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if alias.name in OTHER_PICKLES)
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", *OTHER_PICKLES):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield from ["pickle." + node.attr] if imported.get(ast.unparse(node.value)) == "pickle" else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_pickle_is_used_where_the_table_says(path: Path) -> None:
    """One module reads pickles, without running what they name, and one writes them, for a format that is one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert set(unpicklers(tree)) == PICKLE.get(path.relative_to(PACKAGE).as_posix(), set())


def test_the_unpickler_looks_nothing_up() -> None:
    """Its one class finds stand-ins by itself: it asks neither its parent nor the import system."""
    tree = ast.parse(UNPICKLER.read_text(encoding="utf-8"))
    (kind,) = (
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.ClassDef) and "Unpickler" in "".join(map(ast.unparse, n.bases))
    )
    finder = next(
        node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "find_class"
    )
    called = {ast.unparse(node.func) for node in ast.walk(finder) if isinstance(node, ast.Call)}

    assert called == {"self._stand_ins.get", "UnsafeFileError", "show", "_Name"}
    assert [ast.unparse(base) for base in kind.bases] == ["pickle._Unpickler"]


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle\npickle.loads(b)", "import pickle as p\np.Unpickler(f)", "from pickle import loads"),
        *("import dill", "import joblib", "from _pickle import load", "import shelve"),
    ],
)
def test_the_search_finds_unpicklers(source: str) -> None:
    """By any of their names."""
    assert list(unpicklers(ast.parse(source)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_writer_writes(path: Path) -> None:
    """A file that another module opened would not be whole or absent."""
    found = list(offences(path.read_text(encoding="utf-8")))

    assert found == [] or path == WRITER


@pytest.mark.parametrize(
    "source",
    [
        *(
            "open(path, 'w')",
            "path.open('wb')",
            "io.open(p, mode='a')",
            "os.fdopen(d, 'r+b')",
            "path.write_text(t)",
        ),
        *("np.save(path, a)", "np.savez(out / 'x', a=a)", "torch.save(state, path)", "image.save(path)"),
        *("image.save(folder / 'x.png', 'PNG')", "torch.save(state, f=path)", "plt.savefig('x.png')"),
    ],
)
def test_the_search_finds(source: str) -> None:
    """What must not be written is found."""
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    [
        *("open(path)", "path.open('rb')", "image.save(buffer, 'PNG')", "torch.save(state, buffer)"),
        *(
            "zipfile.ZipFile(buffer, 'w')",
            "np.save(io.BytesIO(), a)",
            "run.write(id_, payload)",
            "Image.open(stream)",
        ),
    ],
)
def test_the_search_lets_pass(source: str) -> None:
    """Reading, and saving into memory, is fine."""
    assert not list(offences(source))
