"""In-Shop Clothes Retrieval: columns by blanks, roles, a count in the first line."""

import pytest

from crossbatch.data.importers import from_in_shop
from crossbatch.errors import FormatError
from tests.importers.miniature import command, counts, picture, rows, text

LINES = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/WOMEN/Dresses/id_00000002/02_2_side.jpg", "id_00000002", "train"),
    ("img/WOMEN/Blouses_Shirts/id_00000001/02_1_front.jpg", "id_00000001", "query"),
    ("img/WOMEN/Blouses_Shirts/id_00000001/02_2_side.jpg", "id_00000001", "gallery"),
    ("img/MEN/Tees, Tanks/id_00000007/01 4 full.jpg", "id_00000007", "gallery"),
    ("img/MEN/Tees, Tanks/id_00000007/01_1_front.jpg", "id_00000007", "query"),
]


def in_shop(root, lines=LINES, *, folder="Eval", pictures="Img", said=None, end="\n"):
    header = [str(len(lines) if said is None else said), "image_name item_id evaluation_status"]
    padded = [f"{path:<75}{item:<18}{status} " for path, item, status in lines]
    text(root / folder / "list_eval_partition.txt", header + padded, end=end)
    for number, (path, *_) in enumerate(lines):
        picture(root / pictures / path, number)
    return root


def test_rows(tmp_path):
    manifest, problems = from_in_shop(in_shop(tmp_path))
    assert rows(manifest, "path", "label", "split", "role") == [
        (path, item, "train" if status == "train" else "test", status)
        for path, item, status in LINES
    ]
    assert manifest.root == tmp_path / "Img"
    assert problems == ()


@pytest.mark.parametrize(("folder", "pictures"), [("Eval", "."), (".", ".")])
def test_other_layouts(tmp_path, folder, pictures):
    root = in_shop(tmp_path, folder=folder, pictures=pictures, end="\r\n")
    assert len(from_in_shop(root).manifest) == 6


def test_command(tmp_path, capsys):
    manifest = command("in-shop", in_shop(tmp_path), tmp_path)
    assert counts(manifest) == {"train": (2, 1), "test": (4, 2)}
    assert manifest.notes["differs"] == [
        "train: 2 images of 1 classes here, 25,882 images of 3,997 classes published",
        "test: 4 images of 2 classes here, 3,985 classes published",
        "query: 2 images of 2 classes here, 14,218 images of 3,985 classes published",
        "gallery: 2 images of 2 classes here, 12,612 images of 3,985 classes published",
    ]
    assert "warning: query: 2 images" in capsys.readouterr().out


def test_the_same_image_in_query_and_gallery(tmp_path):
    path, item, _ = LINES[2]
    with pytest.raises(FormatError, match=r"id_00000001/02_1.*one purpose. Got role query and ga"):
        from_in_shop(in_shop(tmp_path, [*LINES, (path, item, "gallery")]))


def test_an_item_in_training_and_test(tmp_path):
    leak = ("img/MEN/Denim/id_00000002/01_1_front.jpg", "id_00000002", "query")
    with pytest.raises(FormatError, match=r"no class in training and test.*both: id_00000002\."):
        from_in_shop(in_shop(tmp_path, [*LINES, leak]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"said": 7}, r"7 images, as its first line says, in .*partition.txt:1. Got '6 images'"),
        ({"said": "many"}, r"a whole number as the number of images in .*:1. Got 'many'"),
        ({"lines": [*LINES, ("img/a.jpg", "id_9", "probe")]}, r"status train.*txt:9. Got 'img/a"),
        ({"lines": [*LINES, ("img/a.jpg", "", "query")]}, r"`image_name.*partition.txt:9. Got"),
    ],
)
def test_broken_lists(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        from_in_shop(in_shop(tmp_path, **change))


def test_no_header(tmp_path):
    in_shop(tmp_path)
    text(tmp_path / "Eval/list_eval_partition.txt", ["1", "img/a.jpg id_1 train"])
    with pytest.raises(FormatError, match=r"the header `image_name item_id.*:2. Got 'img/a.jpg"):
        from_in_shop(tmp_path)


def test_the_wrong_root(tmp_path):
    (tmp_path / "Anno").mkdir()
    with pytest.raises(
        FormatError, match=r"Eval/list_eval_partition.txt.* Got none; .*holds Anno"
    ):
        from_in_shop(tmp_path)
