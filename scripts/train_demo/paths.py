"""Paths of the repository and of the golden set."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def golden_directory(arguments: list[str]) -> Path:
    """Directory of the golden set: the first argument, otherwise `LATENTSYNC_GOLDEN`, otherwise `../shared/golden`."""
    named = arguments[0] if arguments else os.environ.get("LATENTSYNC_GOLDEN", REPOSITORY.parent / "shared/golden")
    path = Path(named)
    if not (path / "small").is_dir():
        raise SystemExit(f"no golden set in `{path}`: pass its directory as an argument, or set LATENTSYNC_GOLDEN")
    return path
