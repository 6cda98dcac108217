"""Where things are."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def golden_directory(arguments: list[str]) -> Path:
    """The shared golden set: the first argument, `LATENTSYNC_GOLDEN`, or `../shared/golden`."""
    named = arguments[0] if arguments else os.environ.get("LATENTSYNC_GOLDEN", REPOSITORY.parent / "shared/golden")
    path = Path(named)
    if not (path / "small").is_dir():
        raise SystemExit(f"no golden set at `{path}`: name its directory, or set LATENTSYNC_GOLDEN")
    return path
