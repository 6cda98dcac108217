"""Renders one person frame by frame."""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from . import parts, raster
from .head_mesh import SHAPES, HeadMesh
from .identity import Identity, srgb
from .skin import EXTENT, paint_skin

# Samples per pixel and dimension.
SAMPLES = 2
# Translation of the lower jaw at weight 1 of `jaw`.
JAW_DROP = np.array([0, -0.185, -0.06], np.float32)
PIVOT = np.array([0, -0.55, -0.25], np.float32)
PERSPECTIVE = 0.10
SRGB_TABLE = (255 * np.linspace(0, 1, 4096) ** (1 / 2.2) + 0.5).astype(np.uint8)
NO_HOLES = np.zeros(0, np.bool_)


@dataclass
class Pose:
    """Angles in radians. `x`: centre of the head relative to the frame's width, `y`: relative to its height, `scale`: half the
    height of the head relative to the frame's height."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.5
    y: float = 0.5
    scale: float = 0.27


@dataclass
class Mouth:
    """`shapes`: weights of `SHAPES`, about 0..1 (`wide` may be negative). `tongue`: 0 (down) to 1 (at the teeth)."""

    shapes: np.ndarray = field(default_factory=lambda: np.zeros(len(SHAPES), np.float32))
    tongue: float = 0.0


@dataclass
class Eyes:
    """`closed`: 0 (open) to 1 (closed). `gaze`: angles to the right and up, in radians."""

    closed: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)


@dataclass
class Landmarks:
    """Positions in the frame, in pixels from its top left corner; left and right are as seen in the picture. `opening`: gap
    between the inner edges of the lips at the centre, relative to the distance between the brows."""

    left_brow: np.ndarray
    right_brow: np.ndarray
    nose: np.ndarray
    corners: np.ndarray
    opening: float


class Renderer:
    """`height`, `width`: size of the frames in pixels."""

    def __init__(self, who: Identity, height: int, width: int | None = None):
        self.who, self.height, self.width = who, height, width or height
        self.head = HeadMesh.build(who)
        self.skin = paint_skin(who)
        mouth = self.head.mouth
        self.upper_teeth = parts.teeth(who, mouth, upper=True)
        self.lower_teeth = parts.teeth(who, mouth, upper=False)
        self.tongue = parts.tongue(who, mouth)
        self.cavity = parts.cavity(who, mouth)
        self.eyeballs = [parts.eyeball(centre, self.head.eye_radius) for centre in self.head.eye_centres]
        self.ears = [parts.ear(who, -1), parts.ear(who, 1)]
        self.hair = parts.scalp_hair(who, self.head)
        self.back_hair = parts.back_hair(who) if who.back_hair > 0 else None
        self.neck, self.shoulders = parts.neck(), parts.shoulders(who)
        self.materials = np.stack(
            [
                who.skin,
                who.iris,
                who.hair,
                who.cloth,
                srgb(0.93, 0.90, 0.84) * who.tooth_shade,
                srgb(0.78, 0.36, 0.36),
                srgb(0.72, 0.38, 0.38),
                srgb(0.24, 0.07, 0.07),
            ]
        ).astype(np.float64)
        sampled_size = (SAMPLES * self.height, SAMPLES * self.width)
        self.background = paint_background(who, *sampled_size)
        self.depth = np.empty(sampled_size, np.float32)
        self.kinds = np.empty(sampled_size, np.uint8)
        self.normals = np.empty((*sampled_size, 3), np.float32)
        self.paint = np.empty((*sampled_size, 2), np.float32)
        self.linear = np.empty((*sampled_size, 3), np.float32)

    def render(self, pose: Pose, mouth: Mouth, eyes: Eyes) -> tuple[np.ndarray, Landmarks]:
        """Returns the frame, (height, width, 3) u8, and its landmarks. `self.kinds` holds the material of each sample."""
        self.depth.fill(-1e9)
        self.kinds.fill(raster.BACKGROUND)
        rotation = rotation_matrix(pose)
        lids = self._lids(eyes)
        # The torso follows the rotation of the head slightly.
        torso_rotation = np.eye(3, dtype=np.float32) + 0.25 * (rotation - np.eye(3, dtype=np.float32))

        def draw(kind, points, paint, rotation=rotation, hole_row=-1, holes=NO_HOLES, seam=-9):
            rotated = (points - PIVOT) @ rotation.T + PIVOT
            screen = self._project(rotated, pose)
            normals = raster.grid_normals(rotated, seam)
            raster.draw_grid(
                screen, normals, paint, hole_row, holes, kind, lids, self.depth, self.kinds, self.normals, self.paint
            )
            return rotated, screen

        face = self._face(mouth)
        lip_row = self.head.lip_row
        rotated, screen = draw(
            raster.SKIN, face, self.head.plane, hole_row=lip_row, holes=self.head.opening, seam=lip_row
        )
        for ball in self.eyeballs:
            draw(raster.EYE, ball.points, ball.paint)
        jaw = mouth.shapes[0] * JAW_DROP
        draw(raster.CAVITY, self.cavity.points + 0.5 * jaw, self.cavity.paint)
        draw(raster.UPPER_TEETH, self.upper_teeth.points, self.upper_teeth.paint)
        draw(raster.LOWER_TEETH, self.lower_teeth.points + jaw, self.lower_teeth.paint)
        lift = np.array([0, 0.075, 0.06], np.float32) * mouth.tongue
        draw(raster.TONGUE, self.tongue.points + (1 - 0.35 * mouth.tongue) * jaw + lift, self.tongue.paint)
        for ear in self.ears:
            draw(raster.EAR, ear.points, ear.paint)
        draw(raster.HAIR, self.hair.points, self.hair.paint)
        if self.back_hair is not None:
            draw(raster.BACK_HAIR, self.back_hair.points, self.back_hair.paint, rotation=0.5 * (rotation + torso_rotation))
        draw(raster.NECK, self.neck.points, self.neck.paint, rotation=torso_rotation)
        draw(raster.CLOTH, self.shoulders.points, self.shoulders.paint, rotation=torso_rotation)

        middle = face.shape[1] // 2
        gap = self._gap(rotated)
        lips_depth = float(rotated[lip_row, middle, 2])
        levels = np.array([self.who.ambient, min(1.0, gap / 0.12), lips_depth], np.float64)
        # The texture coordinates of the eyeball are a unit direction.
        gaze = np.sin(np.asarray(eyes.gaze, np.float64))
        raster.shade(
            self.kinds, self.depth, self.normals, self.paint, self.skin, EXTENT, lids, gaze, self.materials,
            self.who.light, self.who.light_colour, levels, self.background, self.linear,
        )  # fmt: skip
        frame = np.empty((self.height, self.width, 3), np.uint8)
        raster.resolve(self.linear, SRGB_TABLE, frame)
        return frame, self._landmarks(screen, pose, gap)

    def locate(self, pose: Pose, mouth: Mouth) -> Landmarks:
        """Landmarks of a frame, without rendering it."""
        rotated = (self._face(mouth) - PIVOT) @ rotation_matrix(pose).T + PIVOT
        return self._landmarks(self._project(rotated, pose), pose, self._gap(rotated))

    def _face(self, mouth: Mouth) -> np.ndarray:
        return self.head.rest + np.tensordot(mouth.shapes.astype(np.float32), self.head.shapes, 1)

    def _gap(self, rotated: np.ndarray) -> float:
        row, middle = self.head.lip_row, rotated.shape[1] // 2
        return float(np.linalg.norm(rotated[row, middle] - rotated[row + 1, middle]))

    def _project(self, points: np.ndarray, pose: Pose) -> np.ndarray:
        """Projects points of the scene to sample coordinates and depth."""
        size = np.float32(pose.scale * self.height * SAMPLES)
        zoom = size * (1 + PERSPECTIVE * points[..., 2:])
        centre = np.array([pose.x * self.width, pose.y * self.height], np.float32) * SAMPLES
        xy = points[..., :2] * zoom * np.array([1, -1], np.float32) + centre
        return np.concatenate([xy, points[..., 2:]], -1).astype(np.float32)

    def _lids(self, eyes: Eyes) -> np.ndarray:
        """Argument `eye` of `raster.lid_edges`: centre, half width, upper and lower height of the opening."""
        who = self.who
        low = 0.52 * who.eye_height
        up = who.eye_height * (1 - eyes.closed * 1.40) + 0.10 * eyes.gaze[1]
        return np.array([who.eye_distance, 0.10, who.eye_width, up, low], np.float64)

    def _landmarks(self, screen: np.ndarray, pose: Pose, gap: float) -> Landmarks:
        plane = self.head.plane
        middle = plane.shape[1] // 2

        def at(x: float, y: float) -> np.ndarray:
            row = int(np.argmin(np.abs(plane[:, middle, 1] - y)))
            column = int(np.argmin(np.abs(plane[row, :, 0] - x) + 9 * (self.head.rest[row, :, 2] < 0)))
            return screen[row, column, :2] / SAMPLES

        brow = 0.28 + self.who.brow_height
        width = self.who.mouth_width
        corners = np.stack([at(-width, self.who.mouth_height), at(width, self.who.mouth_height)])
        return Landmarks(
            left_brow=at(-0.29, brow),
            right_brow=at(0.29, brow),
            nose=at(0.0, -0.02 - 0.10 * self.who.nose_length),
            corners=corners,
            opening=gap / 0.58,
        )


def rotation_matrix(pose: Pose) -> np.ndarray:
    """Rotation matrix (3, 3): yaw, then pitch, then roll."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (pose.yaw, pose.pitch, pose.roll))
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (roll @ pitch @ yaw).astype(np.float32)


def paint_background(who: Identity, height: int, width: int) -> np.ndarray:
    """(height, width, 3) f32, linear: a blurred wall."""
    rng = np.random.default_rng([who.seed, 0xB6])
    small = rng.uniform(0, 1, (12, 12))
    spots = gaussian_filter(np.kron(small, np.ones((height // 12 + 1, width // 12 + 1))), height / 20)[:height, :width]
    other = who.background * rng.uniform(0.35, 1.5, 3)
    spots = (spots - spots.min()) / (np.ptp(spots) + 1e-9) * rng.uniform(0.2, 1.0)
    fall = np.linspace(1.15, 0.75, height)[:, None, None]
    return ((who.background + spots[..., None] * (other - who.background)) * fall).astype(np.float32)
