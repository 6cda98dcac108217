"""Mesh of head and face as one grid of points, and its blend shapes.

Rows run from the crown to below the chin, columns around the head. x points right in the picture, y up, z to the camera. Two
rows coincide on the line between the lips; the cells between them form the opening of the mouth.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from .identity import Identity

# Outline of a head without features: height, depth of the front, half width, depth of the back.
PROFILE = np.array(
    [
        [1.10, 0.03, 0.02, 0.03],
        [1.06, 0.30, 0.27, 0.33],
        [0.94, 0.50, 0.48, 0.56],
        [0.74, 0.64, 0.62, 0.70],
        [0.50, 0.71, 0.69, 0.78],
        [0.28, 0.735, 0.715, 0.80],
        [0.10, 0.725, 0.715, 0.78],
        [-0.12, 0.735, 0.695, 0.72],
        [-0.32, 0.74, 0.66, 0.62],
        [-0.52, 0.735, 0.60, 0.50],
        [-0.70, 0.715, 0.515, 0.40],
        [-0.86, 0.685, 0.385, 0.30],
        [-0.96, 0.61, 0.27, 0.22],
        [-1.01, 0.48, 0.16, 0.15],
    ]
)

# Blend shapes of the mouth, in the order of `HeadMesh.shapes`.
SHAPES = ("jaw", "lower", "upper", "wide", "round", "press", "tuck")


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray, y: np.ndarray, at: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    return np.exp(-(((x - at[0]) / size[0]) ** 2) - ((y - at[1]) / size[1]) ** 2)


def row_heights(mouth: float) -> tuple[np.ndarray, int]:
    """Heights of the rows, and index of the upper lip's edge; the next row is the lower lip's edge."""
    above = [
        np.linspace(1.10, 0.36, 22, endpoint=False),
        np.linspace(0.36, -0.10, 30, endpoint=False),
        np.linspace(-0.10, mouth + 0.10, 20, endpoint=False),
        np.linspace(mouth + 0.10, mouth, 12),
    ]
    below = [np.linspace(mouth, mouth - 0.13, 14, endpoint=False), np.linspace(mouth - 0.13, -1.01, 18)]
    upper = np.concatenate(above)
    return np.concatenate([upper, *below]), len(upper) - 1


def column_fractions() -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of the columns' angles, from behind the left ear around the face."""
    front = np.concatenate([np.linspace(0, 0.48, 23, endpoint=False), np.linspace(0.48, 0.985, 14)])
    angle = np.arcsin(front)
    angle = np.concatenate([angle, np.linspace(np.radians(88), np.radians(165), 9)])
    angle = np.concatenate([-angle[:0:-1], angle])
    return np.sin(angle), np.cos(angle)


@dataclass
class HeadMesh:
    """`rest`: (rows, columns, 3). `plane`: x and y at rest, the texture coordinates. `shapes`: (7, rows, columns, 3)."""

    rest: np.ndarray
    plane: np.ndarray
    shapes: np.ndarray
    lip_row: int
    opening: np.ndarray
    eye_centres: np.ndarray
    eye_radius: float
    mouth: np.ndarray

    @classmethod
    def build(cls, who: Identity) -> "HeadMesh":
        heights, lip_row = row_heights(who.mouth_height)
        sine, cosine = column_fractions()
        rest = skull(who, heights, sine, cosine)
        x, y = rest[..., 0].copy(), rest[..., 1].copy()
        in_front = smoothstep(0.1, 0.35, rest[..., 2])
        rest[..., 2] += in_front * features(who, x, y)
        eye_centres, eye_radius = sink_eyes(who, rest, x, y)
        middle = len(sine) // 2
        mouth = rest[lip_row, middle].copy()
        rest[..., 2] += in_front * lips(who, x, y, heights, lip_row)
        opening = (np.abs(x[lip_row]) < who.mouth_width)[:-1] & (np.abs(x[lip_row]) < who.mouth_width)[1:]
        return cls(
            rest=rest.astype(np.float32),
            plane=np.stack([x, y], -1).astype(np.float32),
            shapes=mouth_shapes(who, x, y, lip_row, in_front).astype(np.float32),
            lip_row=lip_row,
            opening=opening,
            eye_centres=eye_centres,
            eye_radius=eye_radius,
            mouth=mouth,
        )


def skull(who: Identity, heights: np.ndarray, sine: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """(rows, columns, 3): head without features. Its cross-sections are superellipses, flatter in front than an ellipse."""
    outline = PchipInterpolator(PROFILE[::-1, 0], PROFILE[::-1, 1:])(heights)
    front, width, back = outline.T
    jaw = smoothstep(-0.15, -0.75, heights)
    width = width * who.head_width * (1 + jaw * (who.jaw_width - 1))
    width = width * (1 + (who.cheek_width - 1) * np.exp(-(((heights + 0.1) / 0.25) ** 2)))
    flat = np.sign(sine) * np.abs(sine) ** 0.92
    depth = np.sign(cosine) * np.abs(cosine) ** 0.80
    x = width[:, None] * flat
    z = np.where(depth > 0, front[:, None] * depth, back[:, None] * depth)
    # The length of the chin affects only points below the mouth.
    y = np.where(heights < -0.6, -0.6 + (heights + 0.6) * who.chin_length, heights)
    return np.stack([x, np.broadcast_to(y[:, None], x.shape), z], -1)


def features(who: Identity, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Displacement along z of brows, sockets, nose, cheeks and chin."""
    side = np.abs(x)
    dz = 0.035 * bump(side, y, (0.24, 0.27), (0.20, 0.07))
    dz -= 0.085 * bump(side, y, (who.eye_distance - 0.02, 0.10), (0.15, 0.10))
    dz += 0.035 * who.cheekbones * bump(side, y, (0.42, -0.12), (0.15, 0.13))
    dz -= 0.030 * bump(side, y, (0.40, -0.42), (0.12, 0.14))
    dz += 0.045 * bump(side, y, (0.0, -0.86), (0.14, 0.09))
    dz -= 0.030 * bump(side, y, (0.0, -0.66), (0.22, 0.045))

    tip = -0.02 - 0.20 * who.nose_length
    heights = [tip - 0.15, tip - 0.09, tip - 0.045, tip, tip + 0.05, 0.0, 0.10, 0.20, 0.30]
    rise = [0.0, 0.045, 0.17, 0.235, 0.21, 0.125, 0.065, 0.02, 0.0]
    spread = [0.07, 0.07, 0.075, 0.08, 0.072, 0.058, 0.052, 0.055, 0.06]
    ridge = PchipInterpolator(heights, rise, extrapolate=False)(y)
    width = np.interp(y, heights, spread) * who.nose_width
    dz += who.nose_height * np.nan_to_num(ridge) * np.exp(-np.abs(side / width) ** 2.4)
    dz += 0.095 * bump(side, y, (0.092 * who.nose_width, tip - 0.02), (0.052 * who.nose_width, 0.058))

    # The nasolabial folds.
    fold = 0.17 + 0.35 * np.clip(tip + 0.02 - y, 0, 0.35)
    dz -= 0.014 * who.wrinkles * np.exp(-(((side - fold) / 0.035) ** 2)) * bump(0 * y, y, (0, tip - 0.14), (1, 0.13))
    return dz


def sink_eyes(who: Identity, rest: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Fits the lids to the eyeballs. Returns centres (2, 3), left one first, and radius."""
    radius = 0.15
    centres = []
    for sign in (-1, 1):
        at = np.array([sign * who.eye_distance, 0.10])
        nearest = np.argmin((x - at[0]) ** 2 + (y - at[1]) ** 2 + 9 * (rest[..., 2] < 0))
        surface = rest.reshape(-1, 3)[nearest, 2]
        centre = np.array([at[0], at[1], surface - radius + 0.035])
        lid = radius + 0.012
        inside = lid**2 - (x - centre[0]) ** 2 - (y - centre[1]) ** 2
        ball = centre[2] + np.sqrt(np.maximum(inside, 0))
        share = smoothstep(1.0, 0.72, np.hypot((x - at[0]) / 0.165, (y - at[1]) / 0.115))
        rest[..., 2] += np.where(rest[..., 2] > 0, share * (ball - rest[..., 2]), 0)
        centres.append(centre)
    return np.array(centres, np.float32), radius


def lips(who: Identity, x: np.ndarray, y: np.ndarray, heights: np.ndarray, lip_row: int) -> np.ndarray:
    """Displacement along z of the lips."""
    along = np.clip(1 - (x / (1.04 * who.mouth_width)) ** 2, 0, 1) ** 0.55
    rows = np.arange(len(heights))[:, None]
    upper = np.clip((y - who.mouth_height) / who.upper_lip, 0, 3)
    lower = np.clip((who.mouth_height - y) / who.lower_lip, 0, 3)
    profile_upper = np.interp(upper, [0, 0.25, 0.6, 1.0, 1.5, 3], [0.010, 0.052, 0.060, 0.045, 0.018, 0.0])
    profile_lower = np.interp(lower, [0, 0.25, 0.6, 1.0, 1.4, 3], [0.008, 0.055, 0.070, 0.042, 0.005, 0.0])
    dz = who.lip_bulge * along * np.where(rows <= lip_row, profile_upper, profile_lower)
    # The philtrum.
    return dz - 0.014 * bump(x, y, (0, who.mouth_height + 0.115), (0.03, 0.05))


def mouth_shapes(who: Identity, x: np.ndarray, y: np.ndarray, lip_row: int, in_front: np.ndarray) -> np.ndarray:
    """(7, rows, columns, 3): displacement of every point by each of `SHAPES` at weight 1."""
    rows = np.arange(x.shape[0])[:, None]
    below = np.broadcast_to(rows > lip_row, x.shape)
    distance = np.abs(y - who.mouth_height)
    u = x / who.mouth_width
    lens = np.clip(1 - u**2, 0, 1) ** 0.62

    def near(size: float) -> np.ndarray:
        return np.exp(-((distance / size) ** 2))

    def motion(dx=0.0, dy=0.0, dz=0.0) -> np.ndarray:
        parts = [np.broadcast_to(np.asarray(part, float), x.shape) for part in (dx, dy, dz)]
        return np.stack(parts, -1) * in_front[..., None]

    chin = np.exp(-((np.abs(x) / 0.50) ** 4))
    jaw_weight = below * (lens + (chin - lens) * smoothstep(0.0, 0.22, distance))
    # Opening the jaw also moves the cheeks slightly.
    cheeks = 0.16 * ~below * bump(np.abs(x), y, (0.36, who.mouth_height), (0.18, 0.18))
    corner = u * np.exp(-(u**2) / 2.4)
    return np.stack(
        [
            motion(dy=-0.21 * jaw_weight - 0.21 * cheeks, dz=-0.07 * jaw_weight),
            motion(dy=-0.060 * below * lens * near(0.11), dz=0.012 * below * lens * near(0.08)),
            motion(dy=0.050 * ~below * lens * near(0.11), dz=0.010 * ~below * lens * near(0.08)),
            motion(dx=0.085 * corner * near(0.16), dy=0.022 * np.abs(corner) * near(0.14), dz=-0.05 * u**2 * np.exp(-(u**2) / 2) * near(0.16)),
            motion(dx=-0.165 * corner * near(0.17), dz=0.105 * np.exp(-(u**2) / 1.1) * near(0.13)),
            motion(dy=np.where(below, 0.34, -0.34) * distance * lens * near(0.07), dz=-0.030 * lens * near(0.055)),
            motion(dy=0.050 * below * lens * near(0.07), dz=-0.055 * below * lens * near(0.06)),
        ]
    )
