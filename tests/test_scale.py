"""docs/scale.md holds what its model gives for the constants in it, and a small simulation of what it speaks of."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from benchmarks import scale, simulate_scale
from wsss_cli.cli import main

TEXT = scale.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_constants() -> None:
    """Whoever changes a constant prints the tables anew: python -m benchmarks.scale tables."""
    for table in scale.tables(scale.read_constants(TEXT)).split("\n\n"):
        assert table in TEXT


def test_every_constant_says_where_it_comes_from() -> None:
    """Each row has a unit and a source, and no row is of another name."""
    rows = re.findall(r"^\| `(\w+)` \| [0-9.,]+ \| (.+) \| (.+) \|$", TEXT, re.MULTILINE)

    assert [row[0] for row in rows] == [field.name for field in dataclasses.fields(scale.Constants)]
    assert "assumed" in {name: source for name, _, source in rows}["gpu_seconds"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.012"), (1.0, "1"), (9.96, "10"), (1234.0, "1,200"), (0.0, "0")]
)
def test_numbers_have_two_figures(value: float, text: str) -> None:
    """More would pretend to be known."""
    assert scale.number(value) == text


def test_amounts_grow_with_the_images() -> None:
    """Ten times the images, ten times the work; on ten times the machines in the same days."""
    constants = scale.Constants(**dict.fromkeys((f.name for f in dataclasses.fields(scale.Constants)), 1.0))

    assert scale.days(constants, 10**7, 10) == scale.days(constants, 10**6, 1)
    assert scale.amounts(constants, 36 * 10**5)["network on a GPU (assumed), GPU-hours"] == "1,000"


def test_the_constants_can_be_measured(tmp_path: Path) -> None:
    """What needs no network: writing, listing and reading give positive numbers."""
    found = dict(scale._listing(tmp_path / "images", 2000)) | dict(scale._reading(tmp_path / "list", 2000))

    assert set(found) == {
        *("list_seconds", "id_bytes", "tags_seconds", "tags_bytes", "read_seconds", "record_bytes"),
    }
    assert found["list_seconds"] > 0
    assert found["read_seconds"] > 0
    assert scale._writing(tmp_path / "writing", 5) > 0


def here(arguments: Sequence[str]) -> simulate_scale.Answer:
    """`wsss arguments` in this process."""
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()):
        code = main(list(arguments))
    return simulate_scale.Answer(said.getvalue(), code, 0.0, 0.0, 0.0)


def test_status_and_merge_hold_in_a_small_simulation(tmp_path: Path) -> None:
    """10,000 items over 20 workers, of which some are killed: every count is exact, before, after and in between."""
    told: list[str] = []
    simulate_scale.simulate(tmp_path / "out", 10_000, 20, 1, here, told.append)

    assert len(told) == 6
    assert re.search(r"([1-9][0-9]*) lists torn in all", told[2])


def test_the_simulation_notices_a_wrong_count(tmp_path: Path) -> None:
    """A status that loses an item does not pass."""

    def wrong(arguments: Sequence[str]) -> simulate_scale.Answer:
        answer = here(arguments)
        folders = json.loads(answer.text)["folders"]
        folders[0]["counts"]["done"] -= 1
        return dataclasses.replace(answer, text=json.dumps({"folders": folders}))

    with pytest.raises(AssertionError):
        simulate_scale.simulate(tmp_path / "out", 100, 4, 1, wrong, lambda _: None)
