"""Texture of the face over its x-y plane at rest, generated once per person."""

import numpy as np
from scipy.ndimage import gaussian_filter

from .head_mesh import bump, smoothstep
from .identity import Identity

# The texture covers x and y from -EXTENT to EXTENT.
EXTENT = 1.15
SIZE = 512


def paint_skin(who: Identity) -> np.ndarray:
    """Returns (SIZE, SIZE, 4), f32: linear albedo and specular strength. Row 0 is the top."""
    axis = np.linspace(-EXTENT, EXTENT, SIZE)
    x, y = np.meshgrid(axis, -axis)
    rng = np.random.default_rng([who.seed, 0x5C])
    colour = np.broadcast_to(who.skin, (SIZE, SIZE, 3)).astype(np.float64).copy()

    def blend(share: np.ndarray, other) -> None:
        colour[:] += np.clip(share, 0, 1)[..., None] * (np.asarray(other) - colour)

    def noise(size: float) -> np.ndarray:
        field = gaussian_filter(rng.standard_normal((SIZE, SIZE)), size)
        return field / field.std()

    colour *= (1 + 0.035 * noise(14) + 0.018 * noise(3) + 0.012 * noise(1))[..., None]
    side = np.abs(x)
    tip = -0.02 - 0.20 * who.nose_length
    blush = bump(side, y, (0.40, -0.16), (0.17, 0.13)) + 0.7 * bump(x, y, (0, tip), (0.10, 0.09))
    blend((0.16 + 0.16 * who.make_up) * blush, who.skin * np.array([1.0, 0.55, 0.52]))
    freckle = (noise(1.1) > 1.9) * (bump(side, y, (0.25, -0.10), (0.30, 0.12)) + bump(x, y, (0, -0.05), (0.2, 0.1)))
    blend(gaussian_filter(who.freckles * freckle, 0.6), who.skin * np.array([0.55, 0.42, 0.35]))

    # Ambient occlusion: sockets, wings of the nose, nostrils, folds.
    shade = 0.32 * bump(side, y, (who.eye_distance, 0.155), (0.13, 0.045))
    shade += 0.25 * bump(side, y, (0.14, 0.10), (0.05, 0.06))
    shade += 0.18 * who.wrinkles * bump(side, y, (who.eye_distance - 0.02, 0.005), (0.11, 0.022))
    shade += 0.30 * bump(side, y, (0.155 * who.nose_width, tip - 0.03), (0.022, 0.055))
    shade += 0.22 * bump(x, y, (0, tip - 0.085), (0.13 * who.nose_width, 0.03))
    fold = 0.17 + 0.35 * np.clip(tip + 0.02 - y, 0, 0.35)
    shade += 0.22 * who.wrinkles * np.exp(-(((side - fold) / 0.022) ** 2)) * bump(0 * y, y, (0, tip - 0.15), (1, 0.12))
    shade += 0.20 * bump(x, y, (0, who.mouth_height - who.lower_lip - 0.045), (0.15, 0.03))
    blend(shade, who.skin * np.array([0.38, 0.26, 0.22]))
    nostrils = smoothstep(1.1, 0.6, np.hypot((side - 0.052 * who.nose_width) / 0.034, (y - tip + 0.068) / 0.019))
    blend(0.92 * nostrils, who.skin * np.array([0.10, 0.05, 0.04]))

    # Stubble.
    beard = smoothstep(tip - 0.06, tip - 0.12, y) * smoothstep(0.62, 0.5, side) * smoothstep(0.18, 0.30, side - 0.3 * (y + 0.3))
    chin = smoothstep(tip - 0.07, tip - 0.12, y) * smoothstep(0.60, 0.45, side)
    beard = np.maximum(beard, chin) * (0.75 + 0.25 * np.clip(noise(0.8), -1, 1))
    blend(0.75 * who.stubble * beard, who.hair * 0.5 + 0.02)

    lip_share = lip_area(who, x, y)
    lines = 1 + 0.06 * np.sin(x * 190 + 2 * noise(4)) + 0.03 * noise(1)
    blend(lip_share, who.lips * lines[..., None])
    blend(0.55 * lip_share * np.exp(-(((y - who.mouth_height) / 0.010) ** 2)), who.lips * 0.25)

    brow = brow_area(who, x, y) * (0.82 + 0.18 * np.clip(noise(0.7), -1, 1))
    blend(0.95 * brow, who.brows)
    eye_paint(who, side, y, blend)

    shine = 0.10 + 0.10 * bump(x, y, (0, tip), (0.09, 0.14)) + 0.05 * bump(x, y, (0, 0.5), (0.3, 0.15))
    shine = shine * (1 - 0.6 * brow) + (0.16 + 0.25 * who.make_up) * lip_share
    return np.concatenate([np.clip(colour, 0.004, 1), (who.shine * shine)[..., None]], -1).astype(np.float32)


def lip_area(who: Identity, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coverage of the lips in 0..1, with a cupid's bow."""
    u = np.clip(np.abs(x) / (1.01 * who.mouth_width), 0, 1)
    top = who.upper_lip * 1.12 * (1 - u**1.7) * (1 - 0.20 * np.exp(-((u / 0.13) ** 2)) + 0.08 * np.exp(-(((u - 0.25) / 0.15) ** 2)))
    bottom = who.lower_lip * 1.10 * (1 - u**2.3)
    d = y - who.mouth_height
    return smoothstep(0.006, -0.006, d - top) * smoothstep(0.006, -0.006, -d - bottom) * (u < 1)


def brow_area(who: Identity, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    side = np.abs(x)
    t = (side - 0.115) / 0.37
    arc = 0.255 + who.brow_height + who.brow_arch * np.sin(np.pi * np.clip(t, 0, 1) ** 1.25) - 0.035 * np.clip(t, 0, 1) ** 3
    thickness = who.brow_thickness * np.interp(t, [-0.05, 0.06, 0.45, 0.8, 1.02], [0.1, 0.9, 1.0, 0.7, 0.05])
    ends = smoothstep(-0.04, 0.05, t) * smoothstep(1.03, 0.9, t)
    return ends * smoothstep(1.25, 0.7, np.abs(y - arc) / thickness)


def eye_paint(who: Identity, side: np.ndarray, y: np.ndarray, blend) -> None:
    """Crease and shadow of the lids. Lashes move with the lids and are drawn by `raster.shade`."""
    u = (side - who.eye_distance) / who.eye_width
    crease = 0.10 + 0.055 + 0.028 * np.clip(1 - u**2, 0, 1)
    blend(0.45 * np.exp(-(((y - crease) / 0.010) ** 2)) * (np.abs(u) < 1.05), who.skin * np.array([0.35, 0.24, 0.2]))
    lid = np.exp(-(u**2) * 1.2) * smoothstep(0.09, 0.13, y) * smoothstep(0.20, 0.16, y)
    blend(0.35 * who.make_up * lid, who.skin * np.array([0.45, 0.35, 0.42]))
