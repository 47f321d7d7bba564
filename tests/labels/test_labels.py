"""Label tables and class folders: what is said comes out, what is unclear is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_cli import labels
from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.labels import LABEL_READERS, Labels, read_labels

JOINED = "image,classes\na/1.jpg,dog;cat\n2.jpg,cat\n3,\n"
ONE_HOT = "image,cat,dog\na/1.jpg,1,1\n2.jpg,1,0\n3,0,0\n"
TABLE = {"a/1": frozenset({"cat", "dog"}), "2": frozenset({"cat"}), "3": frozenset()}


def read(folder: Path, text: str | bytes, name: str = "labels.csv") -> Labels:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_labels(path)


@pytest.mark.parametrize("text", [JOINED, ONE_HOT])
def test_both_layouts_say_the_same(text: str, tmp_path: Path) -> None:
    """Classes joined by ";", or a 0/1 column for each."""
    found = read(tmp_path, text)

    assert found.table == TABLE
    assert found.classes == ("cat", "dog")
    assert found.where["2"] == "labels.csv line 3"
    assert found.fingerprint == read(tmp_path, JOINED).fingerprint


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda text: "\ufeff" + text, "x.csv"),
        (lambda text: text.replace("\n", "\r\n"), "x.csv"),
        (lambda text: text.replace("\n", "\r"), "x.csv"),
        (lambda text: text.replace(",", "\t"), "x.tsv"),
        (lambda text: text.replace(",", "\t"), "x.CSV"),
        (lambda text: re.sub(r"([^,\n]+)", r'"\1"', text), "x.csv"),
        (lambda text: text.rstrip("\n"), "x.csv"),
        (lambda text: text.replace("\n", "\n\n"), "x.csv"),
        (lambda text: text.replace("image", "Filename", 1), "x.csv"),
    ],
)
@pytest.mark.parametrize("text", [JOINED, ONE_HOT])
def test_spellings_of_the_same_table(text: str, change: object, name: str, tmp_path: Path) -> None:
    """Byte order mark, line ends, tabs, quotes and blank lines change nothing."""
    found = read(tmp_path, change(text), name)  # type: ignore[operator]

    assert found.table == TABLE
    assert found.fingerprint == read(tmp_path, text).fingerprint


SHEET = "Image;classes\r\nSommer 2024/Größe ü.jpg;cat,dog\r\nb c.jpg;dining table\r\nd;\r\n;\r\n"


@pytest.mark.parametrize("joined_by", ",|")
def test_a_spreadsheet_of_names(joined_by: str, tmp_path: Path) -> None:
    """Byte order mark, semicolons, CRLF, spaces, umlauts, an empty last row, classes joined by comma or bar."""
    found = read(tmp_path, "\ufeff" + SHEET.replace(",", joined_by))

    assert found.table == {
        "Sommer%202024/Gr%C3%B6%C3%9Fe%20%C3%BC": {"cat", "dog"},
        "b%20c": {"dining table"},
        "d": frozenset(),
    }
    assert found.where["d"] == "labels.csv line 4"


def test_a_spreadsheet_of_columns(tmp_path: Path) -> None:
    """One column a class, with semicolons; quotes hold a semicolon together."""
    text = '\ufeffFilename;cat;dining table\r\nGröße ü.jpg;1;0\r\n"a;b.jpg";0;1\r\n;;\r\n'
    found = read(tmp_path, text)

    assert found.table == {"Gr%C3%B6%C3%9Fe%20%C3%BC": {"cat"}, "a%3Bb": {"dining table"}}
    assert found.classes == ("cat", "dining table")


@pytest.mark.parametrize("header", ["image;classes", "image\tclasses", "image,classes"])
def test_classes_joined_in_two_ways_are_refused(header: str, tmp_path: Path) -> None:
    """What separates names must not be guessed line by line."""
    separator = header[5]
    second = "," if separator == ";" else ";"
    text = f"{header}\n1{separator}cat|dog\n2{separator}cat{second}dog\n"
    with pytest.raises(RejectedInputError, match=r"line 3: .* joined by .* and .*Use one of them"):
        read(tmp_path, text)


def test_numbers_are_lines_of_a_class_list(tmp_path: Path) -> None:
    """Without a list "0" is a name; with one it is the first line, unless that is the background."""
    text = "image,label\n1,0\n2,1\n3,\n"
    assert read(tmp_path, text + "4,2\n").classes == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert read(tmp_path, text).table == {"1": {"dog"}, "2": {"cat"}, "3": frozenset()}
    with pytest.raises(RejectedInputError, match=r"line 2: class 2 is not among the 2 of .*classes.txt"):
        read(tmp_path, "image,label\n1,2\n")
    (tmp_path / "classes.txt").write_text("background\ndog\ncat\n")
    with pytest.raises(
        RejectedInputError, match="begins with 'background', so that 0 may be that or the first"
    ):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "cells", [("0", "1", ""), ("1", "1", "1"), ("0.0", "1.0", "0.0"), ("True", "false", "")]
)
def test_one_column_of_zeros_and_ones_is_ambiguous(cells: tuple[str, ...], tmp_path: Path) -> None:
    """It may be one class called "label", or the names of two; a class's name or a list decides."""
    rows = "".join(f"{number},{cell}\n" for number, cell in enumerate(cells))
    with pytest.raises(
        RejectedInputError, match=r"line 1: 'label' holds only 0 and 1.*Name the column after"
    ):
        read(tmp_path, "image,label\n" + rows)
    assert read(tmp_path, "image,cat\n" + rows.replace(",\n", ",0\n")).classes == ("cat",)


@pytest.mark.parametrize("cell", ["nan", "None", "NULL"])
def test_missing_values_are_no_classes(cell: str, tmp_path: Path) -> None:
    """A program wrote them; only a class list makes a class of that name."""
    text = f"image,classes\n1,cat\n2,{cell}\n"
    with pytest.raises(RejectedInputError, match=f"line 3: '{cell}' is what programs write for a missing"):
        read(tmp_path, text)
    with pytest.raises(RejectedInputError, match=f"line 1: '{cell}' is what programs write"):
        read(tmp_path, f"image,{cell},cat\n1,0,1\n")
    (tmp_path / "classes.txt").write_text(f"cat\n{cell}\n")
    assert read(tmp_path, text).table["2"] == {cell}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            '1,cat\n2,dog\n3,"cat,dog"\n',
            "line 4: 'cat,dog' is either one class or 2: its words are classes of",
        ),
        ('1,cat\n2,dog\n3,"cat, dog"\n', "line 4: 'cat, dog' is either one class or 2"),
        ("1,haze\n2,haze primary\n3,primary\n", "line 3: 'haze primary' is either one class or 2"),
        (
            "1,cloudy\n2,clear primary\n3,agriculture clear primary water\n",
            "line 3: 'clear primary' is either one class or 2: its words also stand in 'agriculture clear primary wat",
        ),
        (
            "1,cat\n2,\"['cat', 'dog']\"\n",
            "looks like part of a list, not a class. Join the names by ';' without",
        ),
        ("1,cat\n2,'dog'\n", "line 3: ''dog'' looks like part of a list"),
    ],
)
def test_several_names_do_not_become_one_class(rows: str, said: str, tmp_path: Path) -> None:
    """Names joined as the table does not join them: refused, unless classes.txt says that it is one."""
    with pytest.raises(RejectedInputError, match=said):
        read(tmp_path, "image,tags\n" + rows)


def test_names_of_several_words(tmp_path: Path) -> None:
    """They are classes if their words are not, or if classes.txt has them."""
    text = "image,tags\n1,dining table;table\n2,women's shoes\n"
    assert read(tmp_path, text).classes == ("dining table", "table", "women's shoes")
    (tmp_path / "classes.txt").write_text("hot\ndog\nhot dog\n[x]\n")
    assert read(tmp_path, "image,tags\n1,hot dog\n2,hot;dog\n3,[x]\n").table["1"] == {"hot dog"}


def test_numbers_are_sorted_by_size(tmp_path: Path) -> None:
    """10 comes after 9."""
    assert read(tmp_path, "image,label\n1,10\n2,9\n3,1\n").classes == ("1", "9", "10")


@pytest.mark.parametrize(
    "text",
    [
        "image, cat , dog\na/1.jpg , 1, 1\n2.jpg,1 ,0\n 3 ,0,0\n",
        "image,cat,dog\na/1.jpg,True,TRUE\n2.jpg,true,False\n3,false,FALSE\n",
        "image,cat,dog\na/1.jpg,1.0,1.0\n2.jpg,1,0.0\n3,0.0,0\n",
        "sep=;\r\nimage;cat;dog\r\na/1.jpg;1;1\r\n2.jpg;1;0\r\n3;0;0\r\n",
        'image, classes\n"a/1.jpg", "dog;cat"\n2.jpg , cat\n3, \n',
    ],
)
def test_what_programs_write_is_understood(text: str, tmp_path: Path) -> None:
    """Spaces around cells, words and decimals for zeros and ones, Excel's first line."""
    found = read(tmp_path, text)

    assert found.table == TABLE
    assert found.where["2"] == f"labels.csv line {4 if text.startswith('sep') else 3}"


def test_order_of_classes(tmp_path: Path) -> None:
    """The header's, else sorted, whatever the rows; classes.txt beside the table has the last word."""
    assert read(tmp_path, "image,dog,cat\n1,1,0\n").classes == ("dog", "cat")
    assert read(tmp_path, "image,classes\n1,dog\n2,cat\n").classes == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("background\ndog\ncow\ncat\n")
    assert read(tmp_path, JOINED).classes == ("dog", "cow", "cat")
    assert read(tmp_path, ONE_HOT).classes == ("dog", "cow", "cat")
    with pytest.raises(RejectedInputError, match=r"line 2: Unknown class 'catt'\. Did you mean 'cat'"):
        read(tmp_path, "image,classes\n1,catt\n")


def test_background_is_no_class(tmp_path: Path) -> None:
    """Tables that tag the background say nothing by it."""
    assert read(tmp_path, "image,classes\n1,background;cat\n2,background\n").table["2"] == frozenset()
    assert read(tmp_path, "image,background,cat\n1,1,1\n").classes == ("cat",)


def test_spaces_around_class_names(tmp_path: Path) -> None:
    """ "dog; cat" are dog and cat, and a name may have a space inside."""
    assert read(tmp_path, "image,classes\n1,dining table; cat ;\n").classes == ("cat", "dining table")


def test_formulas_and_markup_are_only_text(tmp_path: Path) -> None:
    """A class may be called anything printable."""
    assert read(tmp_path, "image,classes\n1,<script>\n2,=HYPERLINK(1)\n").classes == (
        "<script>",
        "=HYPERLINK(1)",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("2007.jpg,dog\n", "line 1: the columns are '2007.jpg', 'dog'. Start it with 'image,classes'"),
        ("image:classes\n1:dog\n", "line 1: the columns are 'image:classes'"),
        ("image,cat,cat\n1,0,1\n", "line 1: the column 'cat' stands twice"),
        ("image\n1\n", "line 1: there is no column of classes"),
        ("image,cat,\n1,0,1\n", "line 1: a column has no name"),
        ('image,classes\n1,dog\n2,"cat\n3,cow\n', "line 3: unexpected end of data"),
        ('image,classes\n1,"dog"x\n', "line 2: .* expected after"),
        ("image,classes\n1,dog\n2,cat,cow\n", "line 3: 3 cells, but the header has 2"),
        ("image,classes\n1,dog\n2\n", "line 3: 1 cells, but the header has 2"),
        ("image,classes\n\n../evil,dog\n", "line 3: unsafe id"),
        ("image,classes\na\\b.jpg,dog\n", r"line 2: unsafe id 'a\\b.jpg'. Use / instead of \\ "),
        ("image,classes\n,dog\n", "line 2: unsafe id"),
        ("image,classes\na\0b,dog\n", "line 2: unsafe id"),
        ("image,classes\n1,do\x1bg\n", "line 2: .* cannot be a class name"),
        ('image,classes\n1,"do\ng"\n', "line 2: .* cannot be a class name"),
        (
            "image,classes\n1.jpg,dog\n2,cat\n1.png,cat\n",
            "'1' has different classes at .* line 2 and .* line 4",
        ),
        ("image,classes\n", "labels no image"),
        ("image,classes\n1,\n", "names no class"),
        ("image,classes\n1," + "x" * 200_000, "line 2: field larger"),
        *(
            (f"image,cat,dog\n1,0,1\n2,{cell},1\n", "line 3: 'cat' is .*expected 0 or 1")
            for cell in ("NaN", "1.5", "-1", "2", "", "1_0", "٣", "y", "x")
        ),
    ],
)
def test_unclear_tables_are_refused_with_the_line(text: str, said: str, tmp_path: Path) -> None:
    """Nothing is guessed: the message has the file, the line and the value."""
    with pytest.raises(RejectedInputError, match=said) as caught:
        read(tmp_path, text)
    assert "labels.csv" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("encoding", "byte"), [("utf-16", 0), ("latin-1", 14)])
def test_other_encodings_are_refused_with_the_byte(encoding: str, byte: int, tmp_path: Path) -> None:
    """The message tells where UTF-8 ends and what it may be instead."""
    with pytest.raises(RejectedInputError, match=f"not UTF-8 at byte {byte}.*(UTF-16|Latin-1)"):
        read(tmp_path, "image,classes\nä,dog\n".encode(encoding))


def test_equal_rows_are_noted(tmp_path: Path) -> None:
    """A row that stands twice is harmless, but said."""
    found = read(tmp_path, "image,classes\n1.jpg,dog;cat\n1,cat;dog\n")

    assert found.table == {"1": frozenset({"cat", "dog"})}
    assert len(found.notes) == 1
    assert "labels.csv line 3" in found.notes[0]


NAMES = st.sets(st.sampled_from(["cat", "dog", "dining table", "größe", 'q"uote', "a,b"]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.dictionaries(st.text("abc/ ,\"'1é", min_size=1, max_size=6), NAMES, min_size=1, max_size=5))
def test_quoted_tables_come_back(rows: dict[str, set[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever csv can quote is read as it was, up to the spelling of a path."""
    normal = {name: "/".join(part for part in name.strip().split("/") if part) for name in rows}
    usable = {name: rows[name] for name in rows if normal[name] and not name.strip().startswith("/")}
    if len({normal[name] for name in usable}) != len(usable) or not any(usable.values()):
        return
    quoted = (
        ",".join('"' + cell.replace('"', '""') + '"' for cell in (name, ";".join(names)))
        for name, names in usable.items()
    )
    found = read(tmp_path_factory.mktemp("labels"), "image,classes\n" + "\n".join(quoted))

    assert [set(names) for names in found.table.values()] == list(usable.values())


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_class_folders(tmp_path: Path) -> None:
    """The first level is the class, the id is the whole path; junk and empty folders say nothing."""
    folders(
        tmp_path,
        "dog/x.JPG",
        "dog/deep/y.png",
        "cat/x.jpg",
        "cat/.DS_Store",
        ".git/z.jpg",
        "background/e.jpg",
        "cow/a.txt",
    )
    found = read_labels(tmp_path)

    assert found.table == {
        "background/e": frozenset(),
        "cat/x": frozenset({"cat"}),
        "dog/deep/y": frozenset({"dog"}),
        "dog/x": frozenset({"dog"}),
    }
    assert found.classes == ("cat", "dog")
    assert found.where["dog/x"].endswith("dog/x.JPG")


def test_class_folders_below_parts_of_a_data_set(tmp_path: Path) -> None:
    """train/cat/1.jpg is a cat once classes.txt says so; train and val alone are no classes."""
    folders(tmp_path, "train/cat/a/x.jpg", "val/dog/x.jpg", "val/background/y.jpg")
    with pytest.raises(RejectedInputError, match=r"folders train, val of .* are parts of a data set"):
        read_labels(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert read_labels(tmp_path).table == {
        "train/cat/a/x": {"cat"},
        "val/dog/x": {"dog"},
        "val/background/y": frozenset(),
    }


@pytest.mark.parametrize(
    "name", ["train", "Valid", "ground_truth", "Masks", "images", "JPEGImages", "labels", "annotations"]
)
def test_one_part_of_a_data_set_is_enough(name: str, tmp_path: Path) -> None:
    """Folders of images and masks beside each other would be two classes."""
    folders(tmp_path, f"{name}/x.jpg", "cat/x.jpg")
    with pytest.raises(
        RejectedInputError, match=rf"folders {name} of .* are parts of a data set, not classes"
    ):
        read_labels(tmp_path)
    (tmp_path / "classes.txt").write_text(f"cat\n{name}\n")
    assert read_labels(tmp_path).table == {f"{name}/x": {name}, "cat/x": {"cat"}}


def test_classes_of_folders_are_told(tmp_path: Path) -> None:
    """Where nobody said that folders are classes; at most ten by name."""
    folders(tmp_path, *(f"c{number:02}/x.jpg" for number in range(12)))
    (note,) = read_labels(tmp_path).notes
    assert note.startswith("The folders are taken for 12 classes: c00, c01, ")
    assert note.endswith("c09 and others.")
    assert read_labels(tmp_path, format="folders").notes == ()


def test_classes_that_differ_in_capitals_are_noted(tmp_path: Path) -> None:
    """They stay two."""
    found = read(tmp_path, "image,classes\n1,Cat\n2,cat\n")
    assert found.classes == ("Cat", "cat")
    assert found.notes == ("'Cat' and 'cat' are two classes. Write them alike if they are one.",)


def test_class_folders_follow_a_class_list(tmp_path: Path) -> None:
    """classes.txt in the folder gives the order and is binding."""
    folders(tmp_path, "dog/x.jpg", "cat/x.jpg")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert read_labels(tmp_path).classes == ("dog", "cat")
    folders(tmp_path, "cow/x.jpg")
    with pytest.raises(RejectedInputError, match="Unknown class 'cow'"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["dog/x.jpg", "loose.jpg"], "1 images lie beside the class folders .*'loose.jpg'"),
        (["dog/x.txt"], "labels no image"),
        (["do\x1bg/x.jpg"], "cannot be a class name"),
        (["background/x.jpg"], "names no class"),
        (["x.jpg"], "format of .* is not known"),
    ],
)
def test_unclear_folders_are_refused(names: list[str], said: str, tmp_path: Path) -> None:
    """Images without a class, folders without images, names that cannot be classes."""
    with pytest.raises(RejectedInputError, match=said):
        read_labels(folders(tmp_path, *names))


def test_format_is_found_or_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reader must know the path; a name chooses it, and a wrong name is corrected."""
    path = tmp_path / "labels.dat"
    path.write_text(JOINED)

    with pytest.raises(RejectedInputError, match="is not known"):
        read_labels(path)
    assert read_labels(path, format="csv").table == TABLE
    with pytest.raises(UsageError, match="Did you mean 'csv'"):
        read_labels(path, format="cvs")
    with pytest.raises(RejectedInputError, match="no labels at"):
        read_labels(tmp_path / "nowhere")
    monkeypatch.setattr(
        labels,
        "LABEL_READERS",
        labels.Registry("label format", dict.fromkeys(("a", "b"), LABEL_READERS.path("csv"))),
    )
    path.rename(tmp_path / "labels.csv")
    with pytest.raises(
        RejectedInputError, match=r"could be any of a, b\. Say which it is with --label-format"
    ):
        read_labels(tmp_path / "labels.csv")


def test_readers_never_raise_while_looking(tmp_path: Path) -> None:
    """Whatever a path is or holds, every reader answers yes or no."""
    shapes = [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 10_000,
        b"<" * 1000,
        b'"' * 1001,
        b"\x93NUMPY\x01\x00",
    ]
    paths = [tmp_path / "nowhere", tmp_path]
    for number, payload in enumerate(shapes):
        for suffix in ("csv", "tsv", "json", "jsonl", "txt", "xml", "npy", "bin"):
            paths.append(tmp_path / f"{number}.{suffix}")
            paths[-1].write_bytes(payload)
        for name in ("metadata.csv", "metadata.jsonl"):
            paths.append(tmp_path / str(number) / name)
            paths[-1].parent.mkdir(exist_ok=True)
            paths[-1].write_bytes(payload)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    answers = {LABEL_READERS.load(name).matches(path) for name in LABEL_READERS.names() for path in paths}

    assert answers <= {True, False}


IDS = {"1", "b/2", "b/Gr%C3%B6%C3%9Fe"}


def test_labels_below_a_folder_of_their_own(tmp_path: Path) -> None:
    """Leading folders that all labels share are left out if only then they name images, and it is said."""
    path = tmp_path / "labels.csv"
    path.write_text("image,classes\ndata/photos/1.jpg,cat\ndata/photos/b/2.jpg,dog\ndata/photos/x.jpg,dog\n")
    found = read_labels(path, ids=IDS)

    assert list(found.table) == ["1", "b/2", "data/photos/x"]  # the stranger keeps its name for the message
    assert found.where["b/2"] == "labels.csv line 3"
    assert found.notes == ("Labels name the images below 'data/photos/', which was left out.",)
    assert list(read_labels(path).table) == ["data/photos/1", "data/photos/b/2", "data/photos/x"]


@pytest.mark.parametrize("rows", ["1.jpg,cat\ndata/b/2.jpg,cat\n", "data/1.jpg,cat\nother/b/2.jpg,cat\n"])
def test_no_folder_is_left_out_by_guess(rows: str, tmp_path: Path) -> None:
    """One label that is an image as it stands, or lies elsewhere, and all stay as they are."""
    path = tmp_path / "labels.csv"
    path.write_text("image,classes\n" + rows)

    assert read_labels(path, ids=IDS).table == read_labels(path).table


def test_accents_in_two_spellings(tmp_path: Path) -> None:
    """macOS writes ö as o and two dots; both name one image."""
    path = tmp_path / "labels.csv"
    path.write_text("image,classes\nb/Gro\u0308ße.jpg,cat\n", encoding="utf-8")

    assert list(read_labels(path, ids=IDS).table) == ["b/Gr%C3%B6%C3%9Fe"]


@pytest.mark.parametrize(
    "text",
    [
        "Bild;Klassen\na/1.jpg;dog, cat\n2.jpg;cat\n3;\n",
        "Datei;cat;dog\na/1.jpg;WAHR;WAHR\n2.jpg;WAHR;FALSCH\n3;FALSCH;FALSCH\n",
        "image;étiquettes\na/1.jpg;dog|cat\n2.jpg;cat\n3;\n",
        "Fichier;cat;dog\na/1.jpg;VRAI;VRAI\n2.jpg;VRAI;FAUX\n3;FAUX;FAUX\n",
        "Archivo;cat;dog\na/1.jpg;sí;VERDADERO\n2.jpg;sí;no\n3;FALSO;no\n",
        "dateiname;cat;dog\na/1.jpg;1,0;ja\n2.jpg;1,0;nein\n3;0,0;nein\n",
    ],
)
def test_tables_of_other_languages(text: str, tmp_path: Path) -> None:
    """What spreadsheets in German, French and Spanish save says the same."""
    found = read(tmp_path, text)

    assert found.table == TABLE
    assert found.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Bild;Klasse\n1;WAHR\n2;FALSCH\n", "holds only falsch and wahr, which are either"),
        ("image,label\n1,yes\n2,no\n", "holds only no and yes, which are either"),
        ("Foto;Hund\n1;1\n", "the columns are 'Foto', 'Hund'"),
        ("Bild;Hund;Katze\n1;WAHR;vielleicht\n", "line 2: 'Katze' is 'vielleicht'"),
    ],
)
def test_words_that_may_mean_two_things_are_refused(text: str, said: str, tmp_path: Path) -> None:
    """A column of classes with yes and no could name them or one class; unknown words are not guessed."""
    with pytest.raises(RejectedInputError, match=said):
        read(tmp_path, text)
