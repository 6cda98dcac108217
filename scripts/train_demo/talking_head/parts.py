"""Parts other than the face: eyes, teeth, tongue, hair, ears, neck and shoulders, each a grid of points (rows, columns, 3)."""

from dataclasses import dataclass

import numpy as np

from .head_mesh import HeadMesh, smoothstep
from .identity import Identity


@dataclass
class Part:
    """`points`: (rows, columns, 3) at rest. `paint`: (rows, columns, 2), texture coordinates of its material."""

    points: np.ndarray
    paint: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, paint: np.ndarray) -> "Part":
        return cls(np.ascontiguousarray(points, np.float32), np.ascontiguousarray(paint, np.float32))


def ellipsoid(centre, radii, rows: int, columns: int, whole: bool = True) -> Part:
    """Grid of longitudes and latitudes; without `whole` only the half that faces the camera. Paint: x and y of the direction."""
    max_longitude = np.pi if whole else np.pi / 2
    longitude, latitude = np.meshgrid(np.linspace(-max_longitude, max_longitude, columns), np.linspace(np.pi / 2, -np.pi / 2, rows))
    unit = np.stack([np.sin(longitude) * np.cos(latitude), np.sin(latitude), np.cos(longitude) * np.cos(latitude)], -1)
    return Part.of(np.asarray(centre) + unit * np.asarray(radii), unit[..., :2])


def eyeball(centre: np.ndarray, radius: float) -> Part:
    return ellipsoid(centre, (radius,) * 3, 21, 25, whole=False)


def teeth(who: Identity, mouth: np.ndarray, upper: bool) -> Part:
    """Strip along the dental arch, from the gum to the edge. Paint: tooth number from the middle; 0 at the gum, 1 at the edge."""
    angle = np.linspace(-1.15, 1.15, 33)
    t = np.linspace(0, 1, 9)
    arch = 0.82 * who.mouth_width
    x = np.broadcast_to(arch * np.sin(angle), (len(t), len(angle)))
    z = mouth[2] - 0.05 + 0.26 * (np.cos(angle) - 1)
    # The gums are behind the edges of the teeth, so that closed lips cover them.
    z = z - 0.07 * (1 - t)[:, None] ** 2 + 0.010 * np.sin(np.pi * t)[:, None]
    from_y, to_y = (0.085, -0.030) if upper else (-0.135, -0.046)
    y = np.broadcast_to((mouth[1] + from_y + (to_y - from_y) * t)[:, None], x.shape)
    paint = np.stack([np.broadcast_to(angle * 4.3, x.shape), np.broadcast_to(t[:, None], x.shape)], -1)
    return Part.of(np.stack([x, y, z], -1), paint)


def tongue(who: Identity, mouth: np.ndarray) -> Part:
    centre = (0, mouth[1] - 0.105, mouth[2] - 0.22)
    return ellipsoid(centre, (0.70 * who.mouth_width, 0.055, 0.17), 15, 21, whole=False)


def cavity(who: Identity, mouth: np.ndarray) -> Part:
    """The oral cavity behind the teeth: a bowl that opens towards the camera."""
    front = mouth[2] - 0.10
    bowl = ellipsoid((0, mouth[1] - 0.10, front), (1.5 * who.mouth_width, 0.235, 0.26), 13, 17, whole=False)
    points = bowl.points.copy()
    # Inverted, and curved around the jaws so that it stays inside the cheeks.
    points[..., 2] = 2 * front - points[..., 2] - 2.2 * points[..., 0] ** 2
    return Part.of(points, bowl.paint)


def ear(who: Identity, sign: int) -> Part:
    part = ellipsoid((0, 0, 0), (0.055, 0.165, 0.10), 15, 21)
    points = part.points.copy()
    points[..., 0] += sign * 0.16 * points[..., 2]
    points += (sign * 0.725 * who.head_width, -0.02, -0.10)
    return Part.of(points, part.paint)


def scalp_hair(who: Identity, head: HeadMesh) -> Part:
    """Shell over the head. Paint: signed distance inside the hairline (negative: no hair); strand coordinate."""
    rest = head.rest.copy()
    x, y, z = np.moveaxis(rest, -1, 0)
    around = np.abs(np.arctan2(x, z))
    temple = smoothstep(0.75, 1.35, around)
    nape = smoothstep(1.6, 2.1, around)
    swept = who.hairline + who.hair_sweep * x + 0.05 * np.cos(3 * around)
    line = swept * (1 - temple) + (0.02 * (1 - nape) - 0.55 * nape) * temple
    inside = (y - line) / 0.5
    thickness = who.hair_thickness * smoothstep(-0.02, 0.30, inside)
    outward = rest - np.array([0, 0.1, -0.05], np.float32)
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    points = rest + outward * (0.012 + thickness[..., None])
    strands = np.arctan2(x + 0.35 * who.hair_sweep, 0.45 + np.maximum(z, -0.4)) * 9
    return Part.of(points, np.stack([inside, strands], -1))


def back_hair(who: Identity) -> Part:
    """Long hair behind the face. Paint: 1; strand coordinate."""
    length = 0.55 + 0.95 * who.back_hair
    part = ellipsoid((0, 0.05, -0.32), (1, 1, 1), 25, 41)
    unit = part.points - np.array([0, 0.05, -0.32], np.float32)
    x, y, z = np.moveaxis(unit, -1, 0)
    width = (0.80 + who.hair_thickness) * who.head_width * np.where(y < 0, 1 + 0.15 * who.back_hair * np.abs(y), 1.0)
    drop = np.where(y < 0, length, 1.02 + 0.5 * who.hair_thickness)
    rounded = np.where(y < 0, np.sign(x) * np.abs(x) ** 0.75, x)
    points = np.stack([width * rounded, 0.05 + drop * y, -0.32 + 0.42 * z], -1)
    return Part.of(points, np.stack([np.ones_like(x), np.arctan2(x, np.abs(z) + 0.3) * 12], -1))


def neck() -> Part:
    angle, t = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, 25), np.linspace(0, 1, 15))
    radius = 0.40 + 0.05 * np.abs(t - 0.4) + 0.25 * np.clip(t - 0.75, 0, 1)
    points = np.stack([radius * np.sin(angle), -0.55 - 1.15 * t, -0.22 + 0.9 * radius * np.cos(angle)], -1)
    return Part.of(points, np.stack([angle, t], -1))


def shoulders(who: Identity) -> Part:
    part = ellipsoid((0, -2.15, -0.25), (1.45, 0.72, 0.62), 21, 41)
    points = part.points.copy()
    # The shoulders rise towards the neck.
    points[..., 1] += 0.16 * np.exp(-((points[..., 0] / 0.5) ** 2))
    return Part.of(points, part.paint * np.array([1.45, 1.0]))
