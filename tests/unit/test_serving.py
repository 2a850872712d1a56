"""The server: what it answers, refuses, keeps to itself, and survives."""

import asyncio
import io
import json
import shutil
import socket
import tempfile
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from crossbatch.errors import CrossbatchError
from crossbatch.evaluation.rerank import Expansion, KReciprocal
from crossbatch.search import GalleryIndex, Refinement
from crossbatch.serving import Address, Limits, application, choose_token, pictures, serve
from crossbatch.serving import api as api_module
from crossbatch.serving.embedder import Embedder
from crossbatch.serving.page import page
from crossbatch.serving.refusals import REASONS, Refusal
from crossbatch.serving.shelf import without_paths
from tests import galleries

HOME = "http://127.0.0.1"
LIMITS = Limits(upload_bytes=200_000, pixels=1_000_000, pictures=3, k=10)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return galleries.make(tmp_path_factory.mktemp("gallery"))


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made.path.parent, tmp_path / "copy")
    return tmp_path / "copy" / "some.index"


@pytest.fixture(scope="module")
def client(made):
    app = application(made.path, LIMITS, hosts=Address().hosts)
    with TestClient(app, base_url=HOME) as client:
        yield client


def local(path, limits=LIMITS, **options):
    app = application(path, limits, interval=0, **options)
    return TestClient(app, base_url=HOME)


def ask(client, *images, **fields):
    files = [("image", ("x.png", image)) for image in images]
    files += [(name, (None, str(value))) for name, value in fields.items()]
    return client.post("/search", files=files)


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert REASONS[code].status == status
    return answer.json()["error"]["message"]


# What is found


def expected(hits):
    return [(hit.item.id, round(hit.similarity, 4)) for hit in hits]


def found(answer):
    assert answer.status_code == 200, answer.text
    return [(hit["id"], round(hit["similarity"], 4)) for hit in answer.json()["hits"]]


def test_a_search_is_that_of_the_index(client, made):
    data = (made.path.parent / "photos" / "deep" / "2.jpg").read_bytes()
    (hits,) = made.search_pictures([data], k=5)
    assert found(ask(client, data, k=5)) == expected(hits)
    other = galleries.png()
    (hits,) = made.search_pictures([data, other], k=5, one_query=True)
    assert found(ask(client, data, other, k=5)) == expected(hits)
    (hits,) = made.search_pictures([data], k=5, where="label = 'dog' AND stars > 1")
    assert found(ask(client, data, k=5, where="label = 'dog' AND stars > 1")) == expected(hits)
    (hits,) = made.search(made.embedding(3), model=made.model, k=4)
    assert found(ask(client, item=3, k=4)) == expected(hits)


def test_a_second_look_is_that_of_the_index(client, made):
    data = (made.path.parent / "photos" / "deep" / "2.jpg").read_bytes()
    plain = found(ask(client, data, k=6))
    for fields, refine in (
        ({"expand": 3}, Refinement(Expansion(3))),
        ({"rerank": "4,2,0.25"}, Refinement(rerank=KReciprocal(4, 2, 0.25))),
        ({"expand": 3, "rerank": "4,2,0.25"}, Refinement(Expansion(3), KReciprocal(4, 2, 0.25))),
    ):
        (hits,) = made.search_pictures([data], k=6, refine=refine)
        assert found(ask(client, data, k=6, **fields)) == expected(hits) != plain
    assert found(ask(client, data, k=6, expand=0, rerank="")) == plain


def test_a_crop_is_the_picture_cut_out(client, made):
    picture = Image.open(made.path.parent / "photos" / "5.png")
    file = io.BytesIO()
    picture.save(file, "PNG")
    (hits,) = made.search_pictures([picture.crop((16, 8, 48, 56))], k=6)
    answer = ask(client, file.getvalue(), crop="0.25,0.125,0.5,0.75", k=6)
    assert found(answer) == expected(hits)
    assert found(answer) != found(ask(client, file.getvalue(), k=6))
    assert found(ask(client, item=5, crop="0.25,0.125,0.5,0.75", k=6)) == expected(hits)


def test_a_crop_is_of_the_upright_picture(client, made):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = (255, 0, 0)
    pixels[:, 40:] = (0, 0, 255)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right: red is above
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    (hits,) = made.search_pictures([Image.new("RGB", (40, 40), (255, 0, 0))], k=6)
    assert found(ask(client, file.getvalue(), crop="0,0,1,0.5", k=6)) == expected(hits)


def test_an_item_and_its_image(client, made):
    item = client.get("/items/2").json()
    metadata = {"stars": 1.0, "note": "it's <b>2</b>"}
    assert item == {"id": 2, "label": "cat", "path": "deep/2.jpg", "metadata": metadata}
    assert client.get("/items/4").json()["metadata"]["stars"] is None
    answer = client.get("/items/2/image?size=48")
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (48, 48)
    tag = answer.headers["etag"]
    again = client.get("/items/2/image?size=48", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/items/2/image?size=64", headers={"if-none-match": tag})
    assert other.status_code == 200


def test_small_pictures_are_kept_within_bounds(made):
    service = api_module.Service(made.path, Limits(cache_bytes=2000))
    opened = service.shelf.use(lambda found: found)
    for turn in range(30):
        number = turn % 12
        drawn = service._drawn(opened, f"tag {number}", number, 64)
        assert drawn == pictures.small(made.image(number), 64, pixels=10**6)
        assert service._kept == sum(map(len, service._small.values())) <= 2000
        assert list(service._small)[-1] == f"tag {number}"
    assert len(service._small) > 1
    service.close()


def test_health(client, made):
    about = client.get("/health").json()
    assert (about["status"], about["name"], about["items"]) == ("ok", "some.index", 12)
    assert about["columns"]["stars"] == "double"
    assert about["limits"]["k"] == 10
    assert about["examples"] == list(dict.fromkeys(about["examples"]))
    assert set(about["examples"]) <= set(range(12))


# What is refused


HOSTILE = {
    "empty": (b"", 422, "empty_image"),
    "svg": (
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        415,
        "not_an_image",
    ),
    "text": (b"GET / HTTP/1.1\r\n\r\n" * 50, 415, "not_an_image"),
    "pdf": (b"%PDF-1.7\n" + b"\0" * 500, 415, "not_an_image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "not_an_image"),
    "truncated": (galleries.png(300)[:200], 422, "broken_image"),
    "bomb": (galleries.bomb(), 422, "too_many_pixels"),
    "small bomb": (galleries.bomb(1001, 1000), 422, "too_many_pixels"),
    "header alone": (b"\x89PNG\r\n\x1a\n", 415, "not_an_image"),
    "large": (galleries.png() + b"\0" * 200_000, 413, "upload_too_large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads(client, name):
    data, status, code = HOSTILE[name]
    refused(ask(client, data), status, code)
    refused(ask(client, data), status, code)


def test_a_body_without_a_length_is_cut_off_at_the_limit(client):
    sent = 0

    def body():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(100):
            sent += 1
            yield b"\0" * 10_000

    kind = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/search", content=body(), headers=kind), 413, "upload_too_large")


def test_what_is_held_together_is_bounded(made):
    with local(made.path, Limits(held_bytes=100, upload_bytes=10_000)) as client:
        refused(ask(client, galleries.png()), 503, "busy")


@pytest.mark.parametrize(
    ("fields", "status", "code", "said"),
    [
        ({"k": 3}, 422, "bad_form", "Got neither"),
        ({"item": "x"}, 422, "bad_parameter", "a whole number from 0"),
        ({"item": "-1"}, 422, "bad_parameter", "'-1'"),
        ({"item": 99}, 404, "no_such_item", "no item of id 99"),
        ({"item": 9 * 10**17}, 404, "no_such_item", "no item"),
        ({"item": 1, "k": 0}, 422, "bad_parameter", "from 1 to 10"),
        ({"item": 1, "k": 11}, 422, "bad_parameter", "from 1 to 10"),
        ({"item": 1, "k": "٣"}, 422, "bad_parameter", "whole number"),
        ({"item": 1, "kk": 2}, 422, "bad_form", "Did you mean `k`"),
        ({"item": 1, "where": "labels = 'x'"}, 422, "bad_filter", "Did you mean `label`"),
        ({"item": 1, "where": "label = 'x'; DROP"}, 422, "bad_filter", "no place"),
        ({"item": 1, "where": "label ="}, 422, "bad_filter", "condition"),
        ({"item": 1, "where": "x" * 20_000}, 422, "bad_filter", "10,000 characters"),
        ({"item": 1, "where": "x" * 70_000}, 422, "bad_form", "64KB"),
        ({"item": 1, "crop": "0,0,1"}, 422, "bad_parameter", "four shares"),
        ({"item": 1, "crop": "0,0,nan,1"}, 422, "bad_parameter", "four shares"),
        ({"item": 1, "crop": "0.5,0,0.6,1"}, 422, "bad_parameter", "within"),
        ({"item": 1, "crop": "0,0,0,1"}, 422, "bad_parameter", "four shares"),
        ({"item": 1, "expand": 51}, 422, "bad_parameter", "from 0 to 50"),
        ({"item": 1, "rerank": "20,6"}, 422, "bad_parameter", "k1,k2,lambda"),
        ({"item": 1, "rerank": "20,6,nan"}, 422, "bad_parameter", "k1,k2,lambda"),
        ({"item": 1, "rerank": "2,9,0.3"}, 422, "bad_parameter", "k1,k2,lambda"),
        ({"item": 1, "rerank": "201,6,0.3"}, 422, "bad_parameter", "k1 ≤ 200"),
        ({"item": 1, "image": "text"}, 422, "bad_form", "a file in `image`"),
    ],
)
def test_what_cannot_be_asked(client, fields, status, code, said):
    assert said in refused(ask(client, **fields), status, code)


def test_forms_that_are_none(client):
    data = galleries.png()
    refused(ask(client, data, item=1), 422, "bad_form")
    refused(ask(client, data, data, data, data), 422, "bad_form")
    refused(ask(client, data, data, crop="0,0,0.5,0.5"), 422, "bad_form")
    twice = [("item", (None, "1")), ("item", (None, "2"))]
    refused(client.post("/search", files=twice), 422, "bad_form")
    refused(client.post("/search", json={"item": 1}), 415, "not_multipart")
    refused(client.post("/search"), 415, "not_multipart")
    for body, kind in (
        (b"--x\r\nnothing", "multipart/form-data; boundary=x"),
        (b"--x", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (
            b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
            "multipart/form-data; boundary=x",
        ),
    ):
        answer = client.post("/search", content=body, headers={"content-type": kind})
        refused(answer, 422, "bad_form")


def test_addresses(client):
    for path in ("/nowhere", "/items", "/items/", "/items/1/image/", "/search/", "/../etc/passwd"):
        refused(client.get(path), 404, "not_found")
    for path in ("/items/x", "/items/1?x=1", "/items/1/image?size=5", "/health?a=b", "/items/%2e"):
        refused(client.get(path), 422, "bad_parameter")
    refused(client.get("/items/12"), 404, "no_such_item")
    refused(client.get("/items/12/image"), 404, "no_such_item")
    answer = client.get("/search")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


# What strangers may do


def test_a_token_opens_everything_but_the_page(made):
    token = "0123456789abcdef"
    with local(made.path, token=token) as client:
        for path in ("/", "/openapi.json"):
            assert client.get(path).status_code == 200
        for path in ("/health", "/items/1", "/items/1/image", "/search", "/nowhere"):
            answer = client.get(path)
            refused(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        for sent in (token[:-1], token + "x", "", "é" * 16):
            headers = {"authorization": f"Bearer {sent}".encode()}
            refused(client.get("/health", headers=headers), 401, "unauthorized")
        basic = {"authorization": f"Basic {token}"}
        refused(client.get("/health", headers=basic), 401, "unauthorized")
        assert client.get("/health", headers={"authorization": f"bearer {token}"}).is_success
        refused(client.get(f"/health?token={token}"), 401, "unauthorized")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:80"])
def test_hosts_of_this_machine(client, host):
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "[::2]"]
)
def test_rebound_names_are_refused(client, host):
    refused(client.get("/health", headers={"host": host}), 421, "wrong_host")
    refused(client.get("/", headers={"host": host}), 421, "wrong_host")


def test_pages_of_other_sites_are_refused(client):
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site}
        refused(client.get("/items/1/image", headers=headers), 403, "cross_site")
        refused(client.post("/search", headers=headers), 403, "cross_site")
        assert client.get("/", headers=headers).status_code == 200  # a link to the page
    assert client.get("/health", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_headers(client):
    for path in ("/", "/health", "/items/1/image", "/nowhere", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] in ("no-store", "no-cache", "private, no-cache")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    assert client.get("/health").headers["content-type"] == "application/json"
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"


def test_the_page_asks_nobody_else():
    text = page().text
    assert "//" not in text.replace("// ", "")
    assert text.count("<script>") == text.count("<style>") == 1
    assert " style=" not in text
    assert " onclick=" not in text


def test_no_path_of_the_disk_is_told(client, made, tmp_path):
    root = str(made.path.parent)
    said = [client.get(f"/items/{i}").text for i in range(12)]
    said += [ask(client, item=1, where=f"label = '{text}").text for text in ("x", "/x/y")]
    said += [ask(client, galleries.png(), k=10).text, client.get("/health").text]
    own = galleries.make(tmp_path).path
    with local(own) as other:
        (tmp_path / "photos" / "1.png").unlink()
        said.append(other.get("/items/1/image").text)
        refused(other.get("/items/1/image"), 404, "image_gone")
        shutil.rmtree(own)
        said.append(other.get("/health").text)
    assert not [text for text in said if root in text or str(tmp_path) in text]
    assert json.loads(said[3])["path"] == "3.png"  # its manifest says where it is on the disk


def test_paths_in_messages():
    assert without_paths("at /a/b.rs:3, and /c/d", "path = '/c/d'") == "at …:3, and /c/d"


def test_uploads_stay_in_memory(made, monkeypatch):
    def rollover(self):
        raise AssertionError("an upload went to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "BMP")
    with local(made.path, Limits()) as client:
        assert ask(client, file.getvalue()).status_code == 200


def test_memory_of_large_pictures_is_given_back_once_they_were_looked_at(monkeypatch):
    events = []
    library = SimpleNamespace(malloc_trim=lambda _: events.append("given back"))
    monkeypatch.setattr(pictures.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(pictures, "_MANY", 2_000)
    for side in (40, 50):
        look = lambda picture: events.append(picture.size)  # noqa: E731
        pictures.read(galleries.png(side), look, pixels=10_000, shortest=10)
    with pytest.raises(Refusal):
        pictures.read(galleries.png(300)[:200], look, pixels=10**6, shortest=10)
    assert events == [(40, 40), (50, 50), "given back", "given back"]
    monkeypatch.setattr(pictures.ctypes, "CDLL", lambda _: object())  # another C library
    assert pictures.small(galleries.png(300), 64, pixels=10**6)


# What happens meanwhile


def test_changes_of_the_index_are_noticed(copied):
    with local(copied) as client:
        assert 3 in ids(ask(client, item=2, k=10, where="id < 6"))
        tag = client.get("/items/2/image").headers["etag"]
        assert GalleryIndex.open(copied).delete([3]) == 1
        assert 3 not in ids(ask(client, item=2, k=10, where="id < 6"))
        assert client.get("/health").json()["items"] == 11
        assert client.get("/items/2/image").headers["etag"] != tag
        refused(ask(client, item=3), 404, "no_such_item")


def test_an_index_that_is_deleted_and_comes_back(copied, made):
    asked = [
        lambda client: client.get("/health"),
        lambda client: client.get("/items/1"),
        lambda client: client.get("/items/1/image"),
        lambda client: ask(client, item=1),
        lambda client: ask(client, galleries.png()),
    ]
    with local(copied) as client:
        before = [request(client) for request in asked]
        assert all(answer.is_success for answer in before)
        shutil.rmtree(copied)
        for request in asked:
            answer = request(client)
            assert "Try again" in refused(answer, 503, "index_unavailable")
            assert answer.headers["retry-after"] == "1"
        assert client.get("/").status_code == 200
        shutil.copytree(made.path, copied)
        assert all(request(client).is_success for request in asked)


def test_an_index_that_is_made_anew_with_another_model(copied):
    with local(copied) as client:
        (copied.parent / "more").mkdir()
        assert client.get("/health").json()["items"] == 12
        shutil.rmtree(copied)
        torch.manual_seed(1)
        new = GalleryIndex.create(copied, galleries.Encoder(galleries.SMALL).eval())
        new.add(galleries.photos(copied.parent / "more" / "photos", 4))
        data = galleries.png()
        (hits,) = new.search_pictures([data], k=5)
        assert found(ask(client, data, k=5)) == expected(hits)
        assert client.get("/health").json()["model"] == new.model


def test_an_index_that_is_gone_between_two_looks(copied):
    app = application(copied, LIMITS, interval=1000)
    with TestClient(app, base_url=HOME) as client:
        assert client.get("/items/1").is_success
        shutil.rmtree(copied)
        refused(client.get("/items/1"), 503, "index_unavailable")
        refused(ask(client, galleries.png()), 503, "index_unavailable")


def test_an_empty_index(tmp_path):
    GalleryIndex.create(tmp_path / "empty", galleries.encoder())
    with local(tmp_path / "empty") as client:
        assert client.get("/health").json()["examples"] == []
        assert ids(ask(client, galleries.png())) == []


async def at_once(app, requests):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=HOME, timeout=60) as client:
        return await asyncio.gather(*[request(client) for request in requests])


def test_more_requests_than_allowed_are_asked_to_come_again(made, monkeypatch):
    gate = threading.Event()
    real = Embedder.ask

    def slow(self, encoder, pictures):
        gate.wait(5)
        return real(self, encoder, pictures)

    monkeypatch.setattr(Embedder, "ask", slow)
    app = application(made.path, Limits(requests=2))
    threading.Timer(0.5, gate.set).start()
    files = {"image": ("x.png", galleries.png())}
    answers = asyncio.run(at_once(app, [lambda c: c.post("/search", files=files)] * 5))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 503, 503, 503] or statuses == [200, 503, 503, 503, 503]
    busy = [answer for answer in answers if answer.status_code == 503]
    assert {answer.json()["error"]["code"] for answer in busy} == {"busy"}
    assert busy[0].headers["retry-after"] == "1"


def test_an_answer_that_takes_too_long(made, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(api_module.shelf, "item", lambda opened, number: gate.wait(5))
    with local(made.path, Limits(seconds=0.2)) as client:
        refused(client.get("/items/1"), 503, "timed_out")
        gate.set()


def test_a_body_that_never_ends(made):
    async def drip():
        yield b"--x\r\n"
        await asyncio.sleep(5)

    kind = {"content-type": "multipart/form-data; boundary=x"}
    app = application(made.path, Limits(seconds=0.4))
    post = lambda client: client.post("/search", content=drip(), headers=kind)  # noqa: E731
    (answer,) = asyncio.run(at_once(app, [post]))
    refused(answer, 408, "too_slow")


def test_failures_are_logged_and_not_told(made, monkeypatch, caplog):
    def fail(opened, number):
        raise RuntimeError(f"secret of {made.path}")

    monkeypatch.setattr(api_module.shelf, "item", fail)
    with local(made.path) as client:
        answer = client.get("/items/1")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "failed"
    assert "secret" not in answer.text
    assert "secret" in caplog.text


def test_queries_that_wait_are_embedded_together_as_each_alone():
    encoder = galleries.encoder()
    sizes, real = [], encoder.forward

    def forward(images):
        sizes.append(len(images))
        time.sleep(0.05)
        return real(images)

    encoder.forward = forward
    pictures = [torch.randn(3, 32, 32) for _ in range(9)]
    with torch.no_grad():
        alone = [real(picture[None])[0].numpy() for picture in pictures]
    embedder = Embedder(batch=4)
    first = embedder.ask(encoder, pictures[:1])
    time.sleep(0.02)
    waiting = [embedder.ask(encoder, [picture]) for picture in pictures[1:7]]
    both = embedder.ask(encoder, pictures[7:])
    got = np.concatenate([answer.result(5) for answer in (first, *waiting, both)])
    np.testing.assert_allclose(got, alone, atol=1e-5)
    assert sizes == [1, 4, 4]
    seven = embedder.ask(encoder, pictures[:7]).result(5)
    np.testing.assert_allclose(seven, alone[:7], atol=1e-5)
    assert sizes[3:] == [4, 2, 1]  # torch keeps buffers for each size: few sizes
    with pytest.raises(RuntimeError):
        embedder.ask(encoder, [torch.randn(3, 32, 32), torch.randn(3, 8, 8)]).result(5)
    assert len(embedder.ask(encoder, pictures[:1]).result(5)) == 1  # it goes on
    embedder.close()


# Where it listens


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True)],
        *[("0.0.0.0", False), ("::", False), ("192.168.0.7", False), ("example.org", False)],
    ],
)
def test_strangers_need_a_token(host, loopback, made):
    address = Address(host)
    assert address.loopback is loopback
    assert (address.hosts is None) is not loopback
    token = choose_token(address, None)
    if loopback:
        assert token is None
        assert choose_token(address, "0123456789abcdef") == "0123456789abcdef"
    else:
        assert len(token) == 32
        assert token != choose_token(address, None)
        with pytest.raises(CrossbatchError, match=r"a token for .* Got none"):
            serve(made.path, address, limits=LIMITS)
    with pytest.raises(CrossbatchError, match=r"at least 16 .* Got one of 5 characters"):
        choose_token(address, "short")


def test_a_port_that_is_taken(made):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CrossbatchError, match=rf"port {port}. Got Address already in use"):
            serve(made.path, Address(port=port), limits=LIMITS)
    with pytest.raises(CrossbatchError, match="port 99999"):
        serve(made.path, Address(port=99999), limits=LIMITS)


def test_limits_are_positive():
    with pytest.raises(CrossbatchError, match=r"positive limit `k`\. Got 0"):
        Limits(k=0)
