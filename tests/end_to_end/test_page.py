"""The page in a real Chromium: what a hand, a mouse and a keyboard find."""

import base64
import io
import shutil
import threading
import time

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from crossbatch.evaluation.rerank import Expansion, KReciprocal
from crossbatch.search import GalleryIndex, Refinement
from crossbatch.serving import Limits, application
from crossbatch.serving.shelf import relative
from tests import galleries

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
TOKEN = "0123456789abcdef"
ARGUMENTS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-dev-shm-usage"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")


class Served:
    """A server in a thread, and what it serves."""

    def __init__(self, path, token=None):
        app = application(path, Limits(upload_bytes=200_000), token=token, interval=0)
        config = uvicorn.Config(app, port=0, log_level="error")
        self.path, self.server = path, uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"

    def stop(self):
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return galleries.make(tmp_path_factory.mktemp("gallery"), many=30)


@pytest.fixture(scope="module")
def served(made):
    served = Served(made.path)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, served):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(10_000)
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: faults.append(m.text) if "Content Security" in m.text else None)
    page.goto(served.address)
    expect(page.locator("#results img.there").first).to_be_visible()
    yield page
    page.close()
    assert faults == []


def shown(page):
    """Paths and similarities of the results, once they are there."""
    expect(page.locator("#results[aria-busy=false] .similarity").first).to_be_visible()
    paths, near = (page.locator(f"#results .{kind}") for kind in ("path", "similarity"))
    return list(zip(paths.all_text_contents(), near.all_text_contents(), strict=True))


def told(hits):
    return [(relative(hit.item.path), f"{hit.similarity:.3f}") for hit in hits]


def upload(page, *pictures):
    files = [
        {"name": f"{i}.png", "mimeType": "image/png", "buffer": data}
        for i, data in enumerate(pictures)
    ]
    page.set_input_files("#file", files)


def photo(made, name="deep/6.jpg"):
    return (made.path.parent / "photos" / name).read_bytes()


def test_choose_then_click_on(page, made):
    upload(page, photo(made))
    (hits,) = made.search_pictures([photo(made)], k=12)
    assert shown(page) == told(hits)
    assert page.locator("#results .label").first.text_content() == "cat"
    assert page.locator("#results .path").first.text_content() == "deep/6.jpg"
    facts = page.locator("#results li").first.locator(".fact").all_text_contents()
    assert facts == ["stars 3", "note it's <b>6</b>"]
    expect(page.locator("#status")).to_have_text("12 of 30")
    third = hits[2].item
    page.locator("#results button").nth(2).click()
    expect(page.locator("#said")).to_have_text(third.label)
    expect(page.locator("#results .similarity").first).to_have_text("1.000")
    (further,) = made.search(made.embedding(third.id), model=made.model, k=12)
    assert shown(page) == told(further)
    page.go_back()
    expect(page.locator("#said")).to_have_text("0.png")
    page.select_option("#k", "24")
    expect(page.locator("#results li")).to_have_count(24)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("button", name="Choose a picture")).to_be_focused()
    expect(page.locator("#heading")).to_have_text("Or begin with one of these")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_drop_and_paste(page, made, way):
    text = base64.b64encode(photo(made)).decode()
    page.evaluate(
        """([way, text]) => {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "one.jpg", {type: "image/jpeg"}));
            const about = {bubbles: true, cancelable: true};
            document.body.dispatchEvent(way === "drop"
                ? new DragEvent("drop", {...about, dataTransfer: carried})
                : new ClipboardEvent("paste", {...about, clipboardData: carried}));
        }""",
        [way, text],
    )
    (hits,) = made.search_pictures([photo(made)], k=12)
    assert shown(page) == told(hits)


def test_several_pictures_are_one_query(page, made):
    pictures = [photo(made), galleries.png()]
    upload(page, *pictures)
    (hits,) = made.search_pictures(pictures, k=12, one_query=True)
    assert shown(page) == told(hits)
    expect(page.locator("#said")).to_have_text("2 pictures of one thing")
    expect(page.locator("#crop")).to_be_hidden()


def test_filter(page, made):
    upload(page, photo(made))
    before = shown(page)
    page.keyboard.press("/")
    expect(page.locator("#where")).to_be_focused()
    page.keyboard.type("label = 'dog' AND stars > 3")
    page.keyboard.press("Enter")
    expect(page.locator("#results .label").first).to_have_text("dog")
    assert set(page.locator("#results .label").all_text_contents()) == {"dog"}
    page.fill("#where", "labels = 'dog'")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Did you mean label?")
    page.fill("#where", "label = 'x' AND stars < 0")
    page.keyboard.press("Enter")
    expect(page.locator("#nothing p")).to_have_text("Nothing meets the filter.")
    expect(page.locator("#error")).to_be_hidden()
    page.get_by_role("button", name="Remove the filter").click()
    expect(page.locator("#nothing")).to_be_hidden()
    assert shown(page) == before
    page.keyboard.type("label = 'x'")
    page.keyboard.press("Escape")
    expect(page.locator("#where")).to_have_value("")
    assert shown(page) == before
    page.get_by_role("button", name="Clear").click()
    page.fill("#where", "label = 'cat'")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("once a picture is chosen")
    page.fill("#where", "")
    page.get_by_role("group", name="Columns").get_by_text("label").click()
    page.keyboard.type("cat")
    expect(page.locator("#where")).to_have_value("label = 'cat'")


def test_a_second_look(page, made):
    upload(page, photo(made))
    before = shown(page)
    for name, refine in (
        ("expand", Refinement(Expansion(10))),
        ("both", Refinement(Expansion(10), KReciprocal(20, 6, 0.3))),
    ):
        with page.expect_response("**/search"):
            page.get_by_label("Second look").select_option(name)
        (hits,) = made.search_pictures([photo(made)], k=12, refine=refine)
        expect(page.locator("#results .similarity").first).to_have_text(told(hits)[0][1])
        assert shown(page) == told(hits) != before


def drawn(page):
    """The crop as it stands on the picture: shares of its sides."""
    return page.evaluate(
        "['left', 'top', 'width', 'height'].map(side => parseFloat(frame.style[side]) / 100)"
    )


def of_crop(made, data, crop):
    picture = Image.open(io.BytesIO(data))
    pixels = zip(crop, picture.size * 2, strict=True)
    left, top, width, height = (share * side for share, side in pixels)
    box = (int(left), int(top), round(left + width), round(top + height))
    return told(made.search_pictures([picture.crop(box)], k=12)[0])


def test_crop_with_the_mouse_and_the_keys(page, made):
    data = photo(made, "7.png")
    upload(page, data)
    whole = shown(page)
    box = page.locator("#stage img").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.65, steps=3)
    page.mouse.up()
    first = drawn(page)
    assert first == pytest.approx([0.25, 0.25, 0.5, 0.4], abs=0.02)
    expect(page.locator("#heading")).to_have_text("Most similar to the crop")
    assert shown(page) == of_crop(made, data, first) != whole
    page.locator("#frame").focus()
    for key in ["ArrowRight"] * 5 + ["Shift+ArrowDown"] * 5:
        page.keyboard.press(key)
    with page.expect_response("**/search"):
        page.keyboard.press("Enter")
    moved = drawn(page)
    assert moved == pytest.approx([first[0] + 0.1, first[1], first[2], first[3] + 0.1], abs=1e-3)
    assert shown(page) == of_crop(made, data, moved)
    page.keyboard.press("Escape")
    expect(page.locator("#frame")).to_be_hidden()
    expect(page.locator("#heading")).to_have_text("Most similar")
    assert shown(page) == whole
    page.keyboard.press("Escape")
    expect(page.locator("#query")).to_be_hidden()
    page.locator("#results button").first.click()
    page.get_by_role("button", name="Crop").click()
    expect(page.locator("#heading")).to_have_text("Most similar to the crop")
    expect(page.locator("#frame")).to_be_focused()


def test_a_finger_scrolls_until_crop_is_pressed(browser, served, made):
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(served.address)
    upload(page, photo(made))
    shown(page)
    touch = "getComputedStyle(stage).touchAction"
    press = """kind => stage.dispatchEvent(new PointerEvent(kind, {
        pointerType: "touch", pointerId: 1, bubbles: true,
        clientX: stage.getBoundingClientRect().left + (kind === "pointerdown" ? 5 : 60),
        clientY: stage.getBoundingClientRect().top + (kind === "pointerdown" ? 5 : 60)}))"""
    page.evaluate("stage.setPointerCapture = () => {}")
    drag = ("pointerdown", "pointermove", "pointerup")
    for kind in drag:
        page.evaluate(press, kind)
    assert page.evaluate(touch) == "auto"
    expect(page.locator("#frame")).to_be_hidden()
    page.get_by_role("button", name="Crop").click()
    assert page.evaluate(touch) == "none"
    before = drawn(page)
    for kind in drag:
        page.evaluate(press, kind)
    assert drawn(page) != before
    page.close()


def test_the_whole_way_by_keys(page):
    page.locator("#results button").first.focus()
    cards = page.locator("#results button")
    page.keyboard.press("ArrowRight")
    expect(cards.nth(1)).to_be_focused()
    wide = page.evaluate(
        """[...document.querySelectorAll('#results li')]
            .filter((x, _, all) => x.offsetTop === all[0].offsetTop).length"""
    )
    assert wide > 2
    page.keyboard.press("ArrowDown")
    expect(cards.nth(1 + wide)).to_be_focused()
    page.keyboard.press("Home")
    expect(cards.first).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(cards.first).to_be_focused()
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(ring) == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#results .similarity").first).to_have_text("1.000")
    expect(cards.first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#drop")).to_be_focused()


def test_names_for_those_who_listen(page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, [tabindex]')]
            .filter(x => x.checkVisibility())
            .filter(x => !x.getAttribute('aria-label') && !x.textContent.trim())
            .filter(x => !x.labels?.length)
            .map(x => x.outerHTML)"""
    )
    assert unnamed == []
    expect(page.get_by_role("list", name="Or begin with one of these")).to_be_visible()
    name = page.locator("#results button").first.get_attribute("aria-label")
    assert name.endswith("Search for what is like it.")


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_sticks_out(page, made, width):
    page.set_viewport_size({"width": width, "height": 800})
    upload(page, photo(made))
    shown(page)
    page.fill("#where", "x" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("p.keys").is_visible() == (width > 800)  # a phone has none of these keys
    first = page.locator("#results li").first.bounding_box()
    assert first["y"] < 600  # what was found is on the first screen, of a phone too


def test_light_and_dark(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate(ground) == light
    page.reload()
    expect(page.get_by_role("button", name="Colours: light")).to_be_visible()
    assert page.evaluate(ground) == light


def test_what_goes_wrong_is_said(page):
    upload(page, b"")
    expect(page.get_by_role("alert")).to_contain_text("a file of 0 bytes")
    page.get_by_role("button", name="Clear").click()
    upload(page, b"\0" * 200_001)
    expect(page.get_by_role("alert")).to_contain_text("At most 0 MiB")
    page.route("**/search", lambda route: route.abort())
    upload(page, galleries.png())
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")


def test_a_token_is_asked_for_once(browser, made):
    served = Served(made.path, token=TOKEN)
    try:
        page = browser.new_page()
        page.goto(served.address)
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.type("not it")
        page.keyboard.press("Enter")
        expect(page.get_by_text("That was not it.")).to_be_visible()
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#results img.there").first).to_be_visible()
        page.reload()
        expect(page.locator("#results img.there").first).to_be_visible()
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.close()
    finally:
        served.stop()


def test_an_index_that_goes_and_one_that_is_empty(browser, tmp_path):
    GalleryIndex.create(tmp_path / "empty", galleries.encoder())
    served = Served(tmp_path / "empty")
    try:
        page = browser.new_page()
        page.goto(served.address)
        expect(page.locator("#nothing")).to_contain_text("The index is empty.")
        shutil.rmtree(tmp_path / "empty")
        upload(page, galleries.png())
        expect(page.get_by_role("alert")).to_contain_text("The index is gone")
        page.close()
    finally:
        served.stop()
