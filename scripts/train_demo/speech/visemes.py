"""Phonemes → mouth curves at 25 fps, by the dominance functions of Cohen and Massaro (1993).

Every viseme has a target shape and a dominance that decays with the distance in time. The mouth is the mean of the targets,
weighted by the dominances.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np

from .espeak import Speech

FPS = 25

# Mouth parameters, in the order of `Viseme.target`.
CHANNELS = ("jaw", "lower", "upper", "wide", "round", "press", "tuck", "tongue")


@dataclass(frozen=True)
class Viseme:
    """`strength`: maximum of the dominance. `decay`: time constant of the dominance in seconds."""

    target: tuple[float, ...]
    strength: float = 1.0
    decay: float = 0.055


REST = Viseme((0, 0, 0, 0, 0, 0.12, 0, 0.1), 1.0, 0.09)

_OPEN = Viseme((0.95, 0.35, 0.30, 0.10, 0.0, 0, 0, 0.0), 1.0)
_HALF_OPEN = Viseme((0.62, 0.30, 0.30, 0.40, 0.0, 0, 0, 0.2), 0.9)
_CENTRAL = Viseme((0.42, 0.25, 0.20, 0.15, 0.0, 0, 0, 0.2), 0.6)
_WIDE = Viseme((0.22, 0.40, 0.35, 0.95, 0.0, 0, 0, 0.35), 0.9)
_ROUND = Viseme((0.25, 0.10, 0.10, 0.0, 1.0, 0, 0, 0.1), 1.1, 0.075)
_OPEN_ROUND = Viseme((0.62, 0.20, 0.15, 0.0, 0.65, 0, 0, 0.0), 1.0, 0.065)
_FRONT_ROUND = Viseme((0.26, 0.15, 0.15, 0.0, 0.90, 0, 0, 0.3), 1.1, 0.070)
_BILABIAL = Viseme((0.02, 0.0, 0.0, 0.0, 0.05, 1.0, 0, 0.1), 2.6, 0.045)
_LABIODENTAL = Viseme((0.10, 0.0, 0.45, 0.15, 0.0, 0, 1.0, 0.1), 2.2, 0.045)
_SIBILANT = Viseme((0.10, 0.50, 0.35, 0.55, 0.0, 0, 0, 0.5), 1.2, 0.045)
_POSTALVEOLAR = Viseme((0.14, 0.45, 0.40, 0.0, 0.70, 0, 0, 0.5), 1.3, 0.055)
_ALVEOLAR = Viseme((0.24, 0.25, 0.20, 0.25, 0.0, 0, 0, 0.9), 0.8, 0.045)
_DENTAL = Viseme((0.26, 0.25, 0.25, 0.25, 0.0, 0, 0, 1.0), 1.1, 0.050)
_VELAR = Viseme((0.28, 0.20, 0.15, 0.15, 0.0, 0, 0, 0.0), 0.5, 0.045)
_LABIAL_VELAR = Viseme((0.12, 0.0, 0.0, 0.0, 1.1, 0, 0, 0.1), 1.6, 0.065)
_RHOTIC = Viseme((0.24, 0.25, 0.20, 0.0, 0.45, 0, 0, 0.5), 0.7, 0.050)
_GLOTTAL = Viseme((0.30, 0.20, 0.15, 0.10, 0.0, 0, 0, 0.0), 0.25, 0.045)

_BY_LETTER = {
    letter: viseme
    for letters, viseme in (
        ("aɑɐäæʌ", _OPEN),
        ("eɛœ", _HALF_OPEN),
        ("əɜɘɚɝɞɵ", _CENTRAL),
        ("iɪɨj", _WIDE),
        ("uʊɯ", _ROUND),
        ("oɔɒɤ", _OPEN_ROUND),
        ("yʏøɥ", _FRONT_ROUND),
        ("pbmɓ", _BILABIAL),
        ("fvɱʋ", _LABIODENTAL),
        ("szɕʑ", _SIBILANT),
        ("ʃʒʂʐ", _POSTALVEOLAR),
        ("tdnlɾɫʈɖɳɭʎɲɬɮ", _ALVEOLAR),
        ("θð", _DENTAL),
        ("kɡgŋxɣqχcɟçʝɢ", _VELAR),
        ("wʍβɸ", _LABIAL_VELAR),
        ("rɹɻʁʀ", _RHOTIC),
        ("hɦʔħʕ", _GLOTTAL),
    )
    for letter in letters
}
# Stops and affricates have a viseme for each of their first two letters; vowels only if both are vowels (diphthongs).
_VOWELS = set("aɑɐäæʌeɛœəɜɘɚɝɞɵiɪɨuʊɯoɔɒɤyʏø")


def visemes_of(symbol: str) -> list[Viseme]:
    """Visemes of a phoneme: one, or two for diphthongs and affricates. Unknown symbols, such as tone marks, have none."""
    letters = [letter for letter in unicodedata.normalize("NFD", symbol) if letter in _BY_LETTER]
    if not letters:
        return []
    if len(letters) > 1 and letters[0] in _VOWELS and letters[1] in _VOWELS:
        return [_BY_LETTER[letters[0]], _BY_LETTER[letters[1]]]
    if letters[0] in _VOWELS:
        return [_BY_LETTER[letters[0]]]
    return [_BY_LETTER[letter] for letter in letters[:2]]


def segments(speech: Speech) -> list[tuple[Viseme, float, float]]:
    """(viseme, start, end) in seconds. Length marks, clicks of the synthesiser and unknown symbols extend the previous viseme."""
    result: list[tuple[Viseme, float, float]] = [(REST, -1.0, 0.0)]
    for phoneme in speech.phonemes:
        visemes = [REST] if not phoneme.symbol else visemes_of(phoneme.symbol)
        if not visemes:
            viseme, start, _ = result[-1]
            result[-1] = (viseme, start, phoneme.end)
            continue
        edges = np.linspace(phoneme.start, phoneme.end, len(visemes) + 1)
        result += list(zip(visemes, edges[:-1], edges[1:]))
    result.append((REST, result[-1][2], speech.seconds + 1.0))
    return result


def mouth_curves(speech: Speech, frames: int | None = None) -> np.ndarray:
    """Ground truth of the mouth: (frames, 8) f32, sampled at the middle of every frame at 25 fps."""
    frames = frames or int(np.ceil(speech.seconds * FPS))
    times = (np.arange(frames) + 0.5) / FPS
    total = np.full(frames, 1e-6)
    sums = np.zeros((frames, len(CHANNELS)))
    for viseme, start, end in segments(speech):
        if end - start < 0.004:
            continue
        # The dominance is constant over the middle half of the phoneme and decays outside it.
        middle, half = (start + end) / 2, (end - start) / 4
        distance = np.maximum(np.abs(times - middle) - half, 0)
        dominance = viseme.strength * np.exp(-((distance / viseme.decay) ** 1.3))
        total += dominance
        sums += dominance[:, None] * np.asarray(viseme.target)
    return (sums / total[:, None]).astype(np.float32)
