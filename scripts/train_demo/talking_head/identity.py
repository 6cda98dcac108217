"""Parameters of a person that are constant during a clip, drawn from one seed."""

from dataclasses import dataclass, field

import numpy as np


def srgb(*values: float) -> np.ndarray:
    """sRGB in 0..1 → linear."""
    return np.asarray(values, np.float32) ** 2.2


def muted(colour: np.ndarray, share: float) -> np.ndarray:
    """Reduces the saturation of a colour to `share`, at the same brightness."""
    return colour.mean() + share * (colour - colour.mean())


# Albedos from light to dark, (red, green, blue) in sRGB.
SKIN_TONES = np.array(
    [[0.96, 0.82, 0.74], [0.93, 0.76, 0.65], [0.87, 0.68, 0.55], [0.78, 0.58, 0.44], [0.64, 0.45, 0.33], [0.48, 0.33, 0.25]]
)
HAIR_COLOURS = np.array(
    [[0.10, 0.08, 0.07], [0.20, 0.13, 0.09], [0.35, 0.22, 0.13], [0.52, 0.36, 0.20], [0.72, 0.56, 0.32], [0.55, 0.25, 0.12], [0.62, 0.60, 0.58]]
)
IRIS_COLOURS = np.array([[0.30, 0.18, 0.10], [0.42, 0.28, 0.14], [0.36, 0.42, 0.25], [0.30, 0.45, 0.58], [0.40, 0.48, 0.52]])


@dataclass
class Identity:
    """Lengths are in units of half the height of a head; colours are linear."""

    seed: int
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    brows: np.ndarray
    iris: np.ndarray
    cloth: np.ndarray
    background: np.ndarray
    jaw_width: float
    cheek_width: float
    head_width: float
    chin_length: float
    cheekbones: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    eye_distance: float
    eye_width: float
    eye_height: float
    nose_length: float
    nose_width: float
    nose_height: float
    mouth_height: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    lip_bulge: float
    tooth_shade: float
    hair_thickness: float
    hairline: float
    hair_sweep: float
    back_hair: float
    stubble: float
    freckles: float
    make_up: float
    wrinkles: float
    light: np.ndarray = field(repr=False)
    light_colour: np.ndarray = field(repr=False)
    ambient: float
    shine: float

    @classmethod
    def random(cls, seed: int) -> "Identity":
        rng = np.random.default_rng([seed, 0x1D])
        u = rng.uniform

        def between(table: np.ndarray) -> np.ndarray:
            """A random colour, interpolated between two neighbours of `table`."""
            position = u(0, len(table) - 1)
            low = min(int(position), len(table) - 2)
            return table[low] + (position - low) * (table[low + 1] - table[low])

        tone = between(SKIN_TONES) * u(0.95, 1.05) * np.array([1, u(0.97, 1.02), u(0.94, 1.04)])
        woman = u() < 0.5
        make_up = u(0.2, 1.0) if woman and u() < 0.6 else u(0.0, 0.15)
        natural = tone * np.array([0.94, 0.66, 0.64])
        rouge = np.array([u(0.60, 0.85), u(0.15, 0.35), u(0.22, 0.38)])
        lips = natural + (0.75 * make_up) * (rouge - natural)
        dark = tone.mean() < 0.55
        hair = HAIR_COLOURS[rng.integers(0, 3 if dark else len(HAIR_COLOURS))] * u(0.85, 1.15)
        azimuth, elevation = np.radians(u(-55, 55)), np.radians(u(5, 50))
        light = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
        warmth = u(-0.08, 0.08)
        back_hair = u(0.3, 1.0) if u() < (0.75 if woman else 0.12) else 0.0
        return cls(
            seed=seed,
            skin=srgb(*np.clip(tone, 0, 1)),
            lips=srgb(*np.clip(lips, 0, 1)),
            hair=srgb(*np.clip(hair, 0, 1)),
            brows=srgb(*np.clip(hair * u(0.55, 0.85), 0.03, 0.5)),
            iris=srgb(*IRIS_COLOURS[rng.integers(0, 2 if dark else len(IRIS_COLOURS))]),
            cloth=srgb(*muted(u(0.08, 0.85, 3), u(0.2, 0.8))),
            background=srgb(*muted(u(0.12, 0.88, 3), u(0.1, 0.6))),
            jaw_width=u(0.90, 1.04) if woman else u(0.97, 1.12),
            cheek_width=u(0.95, 1.06),
            head_width=u(0.95, 1.05),
            chin_length=u(0.95, 1.05),
            cheekbones=u(0.4, 1.4),
            brow_height=u(-0.02, 0.03),
            brow_thickness=u(0.018, 0.028) if woman else u(0.024, 0.040),
            brow_arch=u(0.02, 0.06),
            eye_distance=u(0.255, 0.29),
            eye_width=u(0.110, 0.130),
            eye_height=u(0.046, 0.062),
            nose_length=u(0.94, 1.08),
            nose_width=u(0.85, 1.2),
            nose_height=u(0.85, 1.15),
            mouth_height=u(-0.53, -0.48),
            mouth_width=u(0.21, 0.265),
            upper_lip=u(0.042, 0.068),
            lower_lip=u(0.055, 0.085),
            lip_bulge=u(0.8, 1.3),
            tooth_shade=u(0.80, 1.0),
            hair_thickness=u(0.04, 0.11) if u() < 0.9 else 0.012,
            hairline=u(0.56, 0.70),
            hair_sweep=u(-0.16, 0.16),
            back_hair=back_hair,
            stubble=0.0 if woman else max(0.0, u(-0.3, 0.55)),
            freckles=max(0.0, u(-0.6, 0.5)),
            make_up=make_up,
            wrinkles=u(0.2, 1.0),
            light=light.astype(np.float32),
            light_colour=np.array([1 + warmth, 1, 1 - warmth], np.float32) * u(0.85, 1.15),
            ambient=u(0.25, 0.5),
            shine=u(0.5, 1.4),
        )
