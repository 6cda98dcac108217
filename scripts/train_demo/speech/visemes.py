"""Phonemes → what the mouth does, 25 times a second: Cohen and Massaro's dominance functions.

Every phoneme wants the mouth in a place, more or less strongly; at any moment the mouth is at the weighted mean of
what the phonemes around want.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np

from .espeak import Speech

FPS = 25

# Targets of jaw, lower, upper, wide, round, press, tuck, tongue.
CHANNELS = ("jaw", "lower", "upper", "wide", "round", "press", "tuck", "tongue")


@dataclass(frozen=True)
class Viseme:
    """`strength`: how much it insists on its target; `reach`: seconds that it is felt before and after."""

    target: tuple[float, ...]
    strength: float = 1.0
    reach: float = 0.055


REST = Viseme((0, 0, 0, 0, 0, 0.12, 0, 0.1), 1.0, 0.09)

_OPEN = Viseme((0.95, 0.35, 0.30, 0.10, 0.0, 0, 0, 0.0), 1.0)
_HALF_OPEN = Viseme((0.62, 0.30, 0.30, 0.40, 0.0, 0, 0, 0.2), 0.9)
_MIDDLE = Viseme((0.42, 0.25, 0.20, 0.15, 0.0, 0, 0, 0.2), 0.6)
_WIDE = Viseme((0.22, 0.40, 0.35, 0.95, 0.0, 0, 0, 0.35), 0.9)
_ROUND = Viseme((0.25, 0.10, 0.10, 0.0, 1.0, 0, 0, 0.1), 1.1, 0.075)
_OPEN_ROUND = Viseme((0.62, 0.20, 0.15, 0.0, 0.65, 0, 0, 0.0), 1.0, 0.065)
_FRONT_ROUND = Viseme((0.26, 0.15, 0.15, 0.0, 0.90, 0, 0, 0.3), 1.1, 0.070)
_LIPS = Viseme((0.02, 0.0, 0.0, 0.0, 0.05, 1.0, 0, 0.1), 2.6, 0.045)
_LIP_TEETH = Viseme((0.10, 0.0, 0.45, 0.15, 0.0, 0, 1.0, 0.1), 2.2, 0.045)
_TEETH = Viseme((0.10, 0.50, 0.35, 0.55, 0.0, 0, 0, 0.5), 1.2, 0.045)
_HUSH = Viseme((0.14, 0.45, 0.40, 0.0, 0.70, 0, 0, 0.5), 1.3, 0.055)
_TONGUE_TIP = Viseme((0.24, 0.25, 0.20, 0.25, 0.0, 0, 0, 0.9), 0.8, 0.045)
_TONGUE_OUT = Viseme((0.26, 0.25, 0.25, 0.25, 0.0, 0, 0, 1.0), 1.1, 0.050)
_BACK = Viseme((0.28, 0.20, 0.15, 0.15, 0.0, 0, 0, 0.0), 0.5, 0.045)
_W = Viseme((0.12, 0.0, 0.0, 0.0, 1.1, 0, 0, 0.1), 1.6, 0.065)
_R = Viseme((0.24, 0.25, 0.20, 0.0, 0.45, 0, 0, 0.5), 0.7, 0.050)
_BREATH = Viseme((0.30, 0.20, 0.15, 0.10, 0.0, 0, 0, 0.0), 0.25, 0.045)

_BY_LETTER = {
    letter: viseme
    for letters, viseme in (
        ("aɑɐäæʌ", _OPEN),
        ("eɛœ", _HALF_OPEN),
        ("əɜɘɚɝɞɵ", _MIDDLE),
        ("iɪɨj", _WIDE),
        ("uʊɯ", _ROUND),
        ("oɔɒɤ", _OPEN_ROUND),
        ("yʏøɥ", _FRONT_ROUND),
        ("pbmɓ", _LIPS),
        ("fvɱʋ", _LIP_TEETH),
        ("szɕʑ", _TEETH),
        ("ʃʒʂʐ", _HUSH),
        ("tdnlɾɫʈɖɳɭʎɲɬɮ", _TONGUE_TIP),
        ("θð", _TONGUE_OUT),
        ("kɡgŋxɣqχcɟçʝɢ", _BACK),
        ("wʍβɸ", _W),
        ("rɹɻʁʀ", _R),
        ("hɦʔħʕ", _BREATH),
    )
    for letter in letters
}
# A stop's or an affricate's second letter says where it ends: the last known letter counts but for diphthongs.
_VOWELS = set("aɑɐäæʌeɛœəɜɘɚɝɞɵiɪɨuʊɯoɔɒɤyʏø")


def visemes_of(symbol: str) -> list[Viseme]:
    """The visemes of one phoneme: one, or two where it glides. Unknown signs, such as a tone's, have none."""
    letters = [letter for letter in unicodedata.normalize("NFD", symbol) if letter in _BY_LETTER]
    if not letters:
        return []
    if len(letters) > 1 and letters[0] in _VOWELS and letters[1] in _VOWELS:
        return [_BY_LETTER[letters[0]], _BY_LETTER[letters[1]]]
    if letters[0] in _VOWELS:
        return [_BY_LETTER[letters[0]]]
    return [_BY_LETTER[letter] for letter in letters[:2]]


def segments(speech: Speech) -> list[tuple[Viseme, float, float]]:
    """Viseme, start and end in seconds; long marks, clicks of the synthesiser and unknown signs lengthen what precedes."""
    result: list[tuple[Viseme, float, float]] = [(REST, -1.0, 0.0)]
    for phoneme in speech.phonemes:
        wanted = [REST] if not phoneme.symbol else visemes_of(phoneme.symbol)
        if not wanted:
            viseme, start, _ = result[-1]
            result[-1] = (viseme, start, phoneme.end)
            continue
        edges = np.linspace(phoneme.start, phoneme.end, len(wanted) + 1)
        result += list(zip(wanted, edges[:-1], edges[1:]))
    result.append((REST, result[-1][2], speech.seconds + 1.0))
    return result


def mouth_curves(speech: Speech, frames: int | None = None) -> np.ndarray:
    """(frames, 8) f32, at the middle of every frame of 25 a second. The ground truth of the mouth."""
    frames = frames or int(np.ceil(speech.seconds * FPS))
    times = (np.arange(frames) + 0.5) / FPS
    total = np.full(frames, 1e-6)
    sums = np.zeros((frames, len(CHANNELS)))
    for viseme, start, end in segments(speech):
        if end - start < 0.004:
            continue
        # The wish is felt in full within the phoneme's middle half, and fades outside of it.
        middle, half = (start + end) / 2, (end - start) / 4
        away = np.maximum(np.abs(times - middle) - half, 0)
        dominance = viseme.strength * np.exp(-((away / viseme.reach) ** 1.3))
        total += dominance
        sums += dominance[:, None] * np.asarray(viseme.target)
    return (sums / total[:, None]).astype(np.float32)
