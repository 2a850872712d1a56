"""Folders and lists as people have them, including the ones that are wrong."""

import os

import pytest

from crossbatch.data import Kind, Problem, from_csv, from_folder
from crossbatch.errors import CrossbatchError, FormatError


@pytest.fixture
def make(tmp_path):
    """Make empty files below a folder, which is returned."""

    def files(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return files


def rows(manifest, *names):
    return list(zip(*(manifest.column(name).tolist() for name in names), strict=True))


def test_class_folders(make):
    root = make("b/2.PNG", "a/1.jpg", "a/deep/er/0.webp", "b/10.png", "readme.txt")
    manifest, problems = from_folder(root)
    assert rows(manifest, "path", "label", "split", "role") == [
        ("a/1.jpg", "a", "train", "train"),
        ("a/deep/er/0.webp", "a", "train", "train"),
        ("b/10.png", "b", "train", "train"),
        ("b/2.PNG", "b", "train", "train"),
    ]
    assert manifest.path(0) == root / "a" / "1.jpg"
    assert problems == ()


def test_the_root_may_be_relative(make, monkeypatch):
    monkeypatch.chdir(make("photos/a/1.jpg"))
    manifest, _ = from_folder(type(make())("photos"))
    monkeypatch.chdir("/")
    assert manifest.path(0).is_file()


def test_split_folders(make):
    root = make("train/a/1.jpg", "val/b/1.jpg", "validation/c/1.jpg", "Test/a/2.jpg")
    manifest, problems = from_folder(root)
    assert set(rows(manifest, "path", "label", "split", "role")) == {
        ("train/a/1.jpg", "a", "train", "train"),
        ("val/b/1.jpg", "b", "validation", None),
        ("validation/c/1.jpg", "c", "validation", None),
        ("Test/a/2.jpg", "a", "test", None),
    }
    assert problems == ()


def test_a_class_may_be_called_train(make):
    manifest, _ = from_folder(make("train/1.jpg", "bus/1.jpg", "tram/1.jpg"))
    assert manifest.classes == ["bus", "train", "tram"]
    assert set(manifest.column("split")) == {"train"}


def test_splits_beside_classes_are_not_guessed_at(make):
    with pytest.raises(CrossbatchError, match=r"to be a split .*or.* a class. Got train beside x"):
        from_folder(make("train/a/1.jpg", "x/1.jpg"))


def test_what_is_no_image_of_a_class_is_listed(make):
    root = make("a/1.jpg", "a/notes.txt", "a/noext", "loose.jpg", ".hidden/1.jpg", "a/.DS_Store")
    (root / "empty").mkdir()
    manifest, problems = from_folder(root)
    assert rows(manifest, "path") == [("a/1.jpg",)]
    assert set(problems) == {
        Problem(Kind.NO_CLASS, "loose.jpg", "move it into the folder of its class"),
        Problem(Kind.NOT_AN_IMAGE, "a/noext", "suffix (none)"),
        Problem(Kind.NOT_AN_IMAGE, "a/notes.txt", "suffix .txt"),
        Problem(Kind.EMPTY_CLASS, "empty", "no image in it"),
    }


def test_images_outside_the_classes_of_a_split_are_listed(make):
    _, problems = from_folder(make("train/a/1.jpg", "train/loose.jpg", "looser.jpg"))
    assert {problem.path for problem in problems} == {"train/loose.jpg", "looser.jpg"}
    assert {problem.kind for problem in problems} == {Kind.NO_CLASS}


def test_an_empty_folder_gives_no_rows(tmp_path):
    manifest, problems = from_folder(tmp_path)
    assert len(manifest) == len(problems) == 0


def test_links_are_followed_but_not_in_circles(make):
    root = make("photos/a/1.jpg", "elsewhere/2.jpg") / "photos"
    (root / "b").symlink_to(root.parent / "elsewhere")
    (root / "a" / "more").symlink_to(root.parent / "elsewhere")
    (root / "a" / "circle").symlink_to(root / "a")
    manifest, _ = from_folder(root)
    assert rows(manifest, "path") == [("a/1.jpg",), ("a/more/2.jpg",), ("b/2.jpg",)]


def test_names_that_are_no_text_are_listed(tmp_path):
    (tmp_path / "a").mkdir()
    try:
        (tmp_path / "a" / os.fsdecode(b"\xff.jpg")).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 names only: nothing to test")
    manifest, problems = from_folder(tmp_path)
    assert len(manifest) == 0
    assert problems[0] == Problem(Kind.BAD_NAME, r"a/\xff.jpg", "rename the file or its folder")


def test_no_folder(tmp_path):
    with pytest.raises(CrossbatchError, match=r"a folder at .*none. Got nothing. Give the folder"):
        from_folder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(CrossbatchError, match=r"a folder at .*file. Got a file"):
        from_folder(tmp_path / "file")


@pytest.fixture
def listed(tmp_path):
    """Write a list and import it."""

    def importing(text, *, name="list.csv", **options):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return from_csv(tmp_path / name, **options)

    return importing


def test_plain_lines(listed, tmp_path):
    manifest, problems = listed("a/1.jpg,0\r\n\r\na/2.jpg, 0\nb/1.jpg,-1\n")
    assert rows(manifest, "id", "path", "label", "split", "role") == [
        (0, "a/1.jpg", "0", "train", "train"),
        (1, "a/2.jpg", "0", "train", "train"),
        (2, "b/1.jpg", "-1", "train", "train"),
    ]
    assert manifest.path(0) == tmp_path / "a" / "1.jpg"
    assert problems == ()


def test_our_own_columns(listed, tmp_path):
    text = (
        "\ufeffid,path,label,split,role,camera,subset,weight,Caption\n"
        '7,a.jpg,"cat, tabby",test,query,3,1,0.5,x\n'
        "8,/abs/b.jpg,cat,val,,,,,\n"
        "9,c.jpg,,,train,,,nan,\n"
    )
    manifest, problems = listed(text, root=tmp_path / "images")
    columns = ("id", "label", "split", "role", "camera", "caption")
    assert rows(manifest, *columns) == [
        (7, "cat, tabby", "test", "query", "3", "x"),
        (8, "cat", "validation", None, None, None),
        (9, "", "train", "train", None, None),
    ]
    assert manifest.table["subset"].to_pylist() == [1, None, None]
    assert manifest.table["weight"][0].as_py() == 0.5
    assert [str(manifest.path(row)) for row in range(2)] == [
        str(tmp_path / "images" / "a.jpg"),
        "/abs/b.jpg",
    ]
    assert problems == ()


def test_tabs(listed):
    manifest, _ = listed("label\tpath\nx,y\ta,b.jpg\n", name="list.tsv")
    assert rows(manifest, "path", "label") == [("a,b.jpg", "x,y")]


OML = """label,split,is_query,is_gallery,path,category,x_1,x_2,y_1,y_2
1,train,False,False,1.jpg,cars,,,,
2,validation,True,True,2.jpg,cars,,,nan,
2,validation,True,False,3.jpg,cars,,,,
2,validation,False,1,4.jpg,cars,,,,
2,validation,0,,5.jpg,cars,,,,
3,train,,,6.jpg,cars,,,,
"""


def test_the_csv_of_oml(listed):
    manifest, problems = listed(OML)
    assert rows(manifest, "path", "label", "split", "role", "category") == [
        ("1.jpg", "1", "train", "train", "cars"),
        ("2.jpg", "2", "validation", None, "cars"),
        ("3.jpg", "2", "validation", "query", "cars"),
        ("4.jpg", "2", "validation", "gallery", "cars"),
        ("6.jpg", "3", "train", "train", "cars"),
    ]
    assert problems == (Problem(Kind.NO_ROLE, "5.jpg", "list.csv:6: both are false"),)
    assert "x_1" not in manifest.table.column_names


def test_the_csv_of_oml_with_the_index_of_pandas(listed):
    text = "".join(f"{i},{line}\r\n" for i, line in enumerate(OML.splitlines()))
    manifest, _ = listed(text.replace("0,label", ",label", 1).replace("cars", '"a, b"'))
    assert rows(manifest, "path", "role", "category")[0] == ("1.jpg", "train", "a, b")
    assert "" not in manifest.table.column_names
    assert manifest.table.column_names == listed(OML).manifest.table.column_names


def test_filled_boxes_are_refused(listed):
    with pytest.raises(FormatError, match=r"whole pictures.*Got a box in list.csv:2. Cut the box"):
        listed(OML.replace("1.jpg,cars,,,,", "1.jpg,cars,0,5,0,5"))


def test_malformed_lines_are_listed(listed):
    manifest, problems = listed("a.jpg,1\nb,c.jpg,1\nd.jpg\n,4\ne.jpg,2\n")
    assert rows(manifest, "path") == [("a.jpg",), ("e.jpg",)]
    assert problems == (
        Problem(Kind.BAD_LINE, "list.csv:2", "3 fields instead of 2"),
        Problem(Kind.BAD_LINE, "list.csv:3", "1 fields instead of 2"),
        Problem(Kind.BAD_LINE, "list.csv:4", "no path"),
    )


@pytest.mark.parametrize("text", ["", "path,label\n", "\n\n"])
def test_a_list_of_nothing(listed, text):
    manifest, problems = listed(text)
    assert len(manifest) == len(problems) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labek\na,b\n", r"to name the columns.*`label` is missing. Did you mean `labek`"),
        ("label,file\na,b\n", r"`path` is missing. Valid are: file, label"),
        ("a,b,c\n", r"or to have lines `path,label`. Got first line a,b,c"),
        ("path,label,Path\na,b,c\n", r"every column once. Got `path` twice. Rename"),
        ("path,label,image\na,b,c\n", r"no column `image`.*Got one in .*list.csv. Rename"),
        ("path,label,id\na,b,x\n", r"a number in column `id` of list.csv:2. Got 'x'. Correct"),
        ("path,label,weight\na,b,\nc,d,much\n", r"column `weight` of list.csv:3. Got 'much'"),
        ("path,label,split\na,b,tset\n", r"`split` to be one of.*'tset'. Did you mean `test`"),
        ("path,label,is_query\na,b,maybe\n", r"`is_query` and `is_gallery` in list.csv:2. Got ma"),
        (b"\xff\xfe,1\n", r"a list of images at .*list.csv.*Give a text file.*in UTF-8"),
        ("a\0,b\n" + "c" * 200_000, r"a list of images at"),
    ],
)
def test_lists_that_cannot_be_read(listed, text, message):
    with pytest.raises(FormatError, match=message):
        listed(text)


def test_no_list(tmp_path):
    with pytest.raises(FormatError, match=r"a list of images at .*none.csv. Got.*No such file"):
        from_csv(tmp_path / "none.csv")
