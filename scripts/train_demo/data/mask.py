"""The mouth mask: `models/src/mouth_mask.rs` in numpy. It is read from the engine's own table."""

import re

import numpy as np

from ..paths import REPOSITORY
from .align import resize_lanczos4

TABLE = REPOSITORY / "models/src/mouth_mask.rs"


def mouth_mask() -> np.ndarray:
    """(256, 256) u8: 255 where the face is kept, 0 where it is generated."""
    text = TABLE.read_text()
    spans = re.search(r"const SPANS: .*?= \[(.*?)\n\];", text, re.S)
    if not spans:
        raise SystemExit(f"`{TABLE}` has no table of spans")
    mask = np.full((256, 256), 255, np.uint8)
    painted = None
    for row, begin, end in re.findall(r"\((\d+), (\d+), (\d+)\)", spans[1]):
        # Each row paints down to the bottom, over what the row above it painted there.
        if row != painted:
            mask[int(row) :] = 255
            painted = row
        mask[int(row) :, int(begin) : int(end)] = 0
    return mask


def pixel_mask(resolution: int) -> np.ndarray:
    """(resolution, resolution) f32 in 0..1, grey at its edge."""
    return resize_lanczos4(mouth_mask()[..., None], resolution, resolution)[..., 0].astype(np.float32) / 255


def latent_mask(resolution: int) -> np.ndarray:
    """(resolution / 8, resolution / 8) f32: the nearest pixels."""
    return pixel_mask(resolution)[::8, ::8].copy()
