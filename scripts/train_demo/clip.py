"""A clip of one synthetic person who speaks one sentence: frames, audio and ground truth."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .speech.espeak import SAMPLE_RATE, Speech, Voice, speak, with_pauses
from .speech.sentences import random_sentence, random_voice
from .speech.visemes import mouth_curves
from .talking_head.identity import Identity
from .talking_head.motion import random_eyes, random_poses
from .talking_head.renderer import Eyes, Landmarks, Mouth, Pose, Renderer


@dataclass
class Clip:
    """`curves`: (frames, 8), weights of the seven mouth shapes and of the tongue."""

    who: Identity
    voice: Voice
    text: str
    speech: Speech
    curves: np.ndarray
    poses: list[Pose]
    eyes: list[Eyes]

    @classmethod
    def random(cls, seed: int, words: int = 7, scale: float = 0.34, held_out: bool = False) -> "Clip":
        """`held_out`: use a voice that is excluded from training. `seed` determines person, voice and sentence."""
        rng = np.random.default_rng([seed, 0xC1])
        voice = random_voice(rng, held_out)
        text = random_sentence(rng, words)
        speech = with_pauses(speak(text, voice), rng.uniform(0, 0.6), rng.uniform(0.1, 0.6))
        return cls.speaking(seed, voice, text, speech, rng, scale)

    @classmethod
    def silent(cls, seed: int, seconds: float, scale: float = 0.34) -> "Clip":
        """The person of `seed`, silent and with closed mouth."""
        speech = Speech(np.zeros(int(seconds * SAMPLE_RATE), np.float32), [])
        return cls.speaking(seed, Voice("en"), "", speech, np.random.default_rng([seed, 0x51]), scale)

    @classmethod
    def speaking(cls, seed: int, voice: Voice, text: str, speech: Speech, rng: np.random.Generator, scale: float) -> "Clip":
        curves = mouth_curves(speech)
        frames = len(curves)
        return cls(
            Identity.random(seed), voice, text, speech, curves, random_poses(rng, frames, scale), random_eyes(rng, frames)
        )

    def frames(self, size: int, curves: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Landmarks]]:
        """Renders every frame, (size, size, 3) u8, with its landmarks. `curves` replaces the clip's own."""
        renderer = Renderer(self.who, size)
        curves = self.curves if curves is None else curves
        for pose, eyes, curve in zip(self.poses, self.eyes, curves):
            yield renderer.render(pose, Mouth(curve[:7], float(curve[7])), eyes)
