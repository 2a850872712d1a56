"""The command lines of the README and of the guide are understood as they are written."""

import re
import shlex
from pathlib import Path

import pytest
import tyro

from crossbatch.cli.main import run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
FOUND = {
    line for page in PAGES for line in re.findall(r"^\$ crossbatch (.+)$", page.read_text(), re.M)
}
READS = ("--resume", ".yaml")  # such options are read from files, before the rest is understood
LINES = sorted(line for line in FOUND if not any(word in line for word in READS))


class Understood(Exception):
    """The options were read: nothing is to be done."""


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_guide_is_understood(line, monkeypatch):
    parse = tyro.cli

    def stop(*arguments, **options):
        parse(*arguments, **options)
        raise Understood

    monkeypatch.setattr(tyro, "cli", stop)
    command, *arguments = shlex.split(line, comments=True)
    with pytest.raises(Understood):
        run(command, arguments)
