"""Coloured PNGs for the eye: every class in its VOC colour, background black.

Do-not-know is VOC's cream (224, 224, 192); colours.csv says which colour is which, so that the masks can be read back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from wsss_cli.exports import Dataset, Form, Scene
from wsss_cli.exports.pictures import coloured

FORM = Form(names_files=False, apart=True)


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """One picture an image, and the table of colours."""
    for scene in scenes:
        yield f"masks/{scene.name}.png", coloured(dataset.colours[scene.labels])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("value", "name", "red", "green", "blue"))
    for value, name in [(0, "background"), *dataset.named, (dataset.ignore, "do not know")]:
        shown = f"'{name}" if name.startswith(("=", "+", "-", "@")) else name  # no formula in a spreadsheet
        table.writerow((value, shown, *dataset.colours[value].tolist()))
    yield "colours.csv", text.getvalue().encode()
