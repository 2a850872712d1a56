"""``crossbatch serve`` as a process: what it prints, whom it lets in, and how it ends."""

import re
import signal
import subprocess
import sys

import httpx
import pytest

from crossbatch.cli import main
from crossbatch.cli import serve as command
from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.serving import Limits
from tests import galleries


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return galleries.make(tmp_path_factory.mktemp("gallery")).path


@pytest.fixture
def asked(monkeypatch):
    """What `serve` is called with, instead of serving."""
    calls = []

    def note(path, address, *, limits, token, ready):
        ready("http://x/")
        calls.append((address, limits, token))

    monkeypatch.setattr(command, "serve", note)
    monkeypatch.delenv(command.TOKEN, raising=False)
    return calls


def test_a_server_from_beginning_to_end(index):
    program = [sys.executable, "-m", "crossbatch.cli.main", "serve", str(index)]
    program += ["--host", "0.0.0.0", "--port", "0"]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = server.stdout.readline()
        port = int(re.search(r"http://0\.0\.0\.0:(\d+)/", said)[1])
        token = re.fullmatch(r"Token: (\S{32})\n", server.stdout.readline())[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.get("/").status_code == 200
            assert client.get("/health").status_code == 401
            client.headers["authorization"] = f"Bearer {token}"
            answer = client.get("/health")
            assert answer.json()["items"] == 12
            assert "server" not in answer.headers
            big = {"image": ("x.png", b"\0" * 100 * 2**20)}
            assert client.post("/search", files=big).json()["error"]["code"] == "upload_too_large"
            head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
            body = (b"\0" * 2**20 if i else head for i in range(100))
            kind = {"content-type": "multipart/form-data; boundary=x"}
            assert client.post("/search", content=body, headers=kind).status_code == 413
            assert client.post("/search", content=b"\0" * 9, headers=kind).status_code == 422
            files = {"image": ("x.png", galleries.png())}
            assert len(client.post("/search", files=files).json()["hits"]) == 12
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=20)
        assert (server.returncode, out, err) == (0, "Stopped.\n", "")
    finally:
        server.kill()
        server.wait()


def test_what_is_asked_of_the_server(index, asked, monkeypatch, capsys):
    assert main.run("serve", [str(index)]) == 0
    address, limits, token = asked.pop()
    assert (address.host, address.port, token) == ("127.0.0.1", 8000, None)
    assert limits == Limits()
    assert "Token" not in capsys.readouterr().out
    flags = ["--megabytes", "300", "--megapixels", "2", "--seconds", "3", "--requests", "4"]
    main.run("serve", [str(index), *flags, "--most", "5"])
    _, limits, _ = asked.pop()
    assert (limits.upload_bytes, limits.pixels) == (300 * 2**20, 2_000_000)
    assert (limits.seconds, limits.requests, limits.k) == (3, 4, 5)
    assert limits.held_bytes >= limits.upload_bytes
    monkeypatch.setenv(command.TOKEN, "from the environment".replace(" ", "-"))
    main.run("serve", [str(index), "--host", "0.0.0.0"])
    assert asked.pop()[2] == "from-the-environment"
    assert "from-the" not in capsys.readouterr().out
    main.run("serve", [str(index), "--token", "0123456789abcdef"])
    assert asked.pop()[2] == "0123456789abcdef"
    with pytest.raises(CrossbatchError, match="at least 16"):
        main.run("serve", [str(index), "--token", "short"])
    with pytest.raises(CrossbatchError, match="positive limit `pixels`"):
        main.run("serve", [str(index), "--megapixels", "0"])


def test_no_index(tmp_path):
    with pytest.raises(FormatError, match="an index at"):
        main.run("serve", [str(tmp_path / "nowhere"), "--port", "0"])
