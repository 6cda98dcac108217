"""Bindings of espeak-ng: text → audio and the time of every phoneme."""

import ctypes
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT = 0x0001, 0x0002, 0x8000
_EVENT_END, _EVENT_PHONEME = 0, 7
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Voice:
    """`name`: language and variant, such as `en-us+f2`; `rate`: words per minute; `pitch`, `intonation`: 0..99."""

    name: str
    rate: int = 165
    pitch: int = 50
    intonation: int = 50


@dataclass
class Phoneme:
    """`symbol`: IPA, empty for a pause; `start`, `end`: seconds."""

    symbol: str
    start: float
    end: float


@dataclass
class Speech:
    """`samples`: 16 kHz mono, f32 in -1..1."""

    samples: np.ndarray
    phonemes: list[Phoneme]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class _Library:
    def __init__(self):
        self.espeak = ctypes.CDLL("libespeak-ng.so.1")
        options = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
        self.rate = self.espeak.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, None, options)
        self.espeak.espeak_Info.restype = ctypes.c_char_p
        if self.rate <= 0:
            raise RuntimeError("cannot initialise espeak-ng: is the package `espeak-ng-data` installed?")
        data = ctypes.c_char_p()
        self.espeak.espeak_Info(ctypes.byref(data))
        self.variants = Path((data.value or b"").decode()) / "voices/!v"
        self.chunks: list[np.ndarray] = []
        self.events: list[tuple[int, str]] = []
        # The library stores a raw pointer to the callback, so the callback must live as long as the library.
        self.callback = _Callback(self._receive)
        self.espeak.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples, count, event) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while event[i].type != _EVENT_END:
            if event[i].type == _EVENT_PHONEME:
                symbol = bytes(event[i].id.string).decode("utf-8", "ignore")
                self.events.append((event[i].sample, symbol))
            i += 1
        return 0


def _synthesise(text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[int, str]], int]:
    """Returns samples, (first sample, symbol) of every phoneme, sampling rate."""
    library = _Library()
    espeak = library.espeak
    _, _, variant = voice.name.partition("+")
    # espeak-ng ignores an unknown variant without an error.
    if variant and not (library.variants / variant).is_file():
        raise ValueError(f"espeak-ng has no variant `{variant}` in `{library.variants}`")
    if espeak.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice `{voice.name}`")
    for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.intonation), (_VOLUME, 90)):
        espeak.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    espeak.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
    espeak.espeak_Synchronize()
    return np.concatenate([np.zeros(0, np.int16), *library.chunks]), library.events, library.rate


def speak(text: str, voice: Voice) -> Speech:
    """Synthesises a sentence. Deterministic: the library keeps state between sentences, so each runs in its own process."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as process:
        samples, events, rate = process.submit(_synthesise, text, voice).result()
    samples = samples.astype(np.float32) / 32768
    starts = [sample / rate for sample, _ in events]
    ends = starts[1:] + [len(samples) / rate]
    phonemes = [Phoneme(symbol, start, end) for (_, symbol), start, end in zip(events, starts, ends)]
    return Speech(resample_poly(samples, 320, 441).astype(np.float32), phonemes)


def with_pauses(speech: Speech, before: float, after: float) -> Speech:
    """Pads `speech` with digital silence; `before`, `after`: seconds."""
    start, end = int(before * SAMPLE_RATE), int(after * SAMPLE_RATE)
    shift = start / SAMPLE_RATE
    phonemes = [Phoneme(p.symbol, p.start + shift, p.end + shift) for p in speech.phonemes]
    if phonemes:
        phonemes.insert(0, Phoneme("", 0.0, shift))
    return Speech(np.pad(speech.samples, (start, end)), phonemes)


def concatenate(parts: list[Speech]) -> Speech:
    """Concatenates `parts`."""
    samples, phonemes, start = [], [], 0.0
    for part in parts:
        phonemes += [Phoneme(p.symbol, p.start + start, p.end + start) for p in part.phonemes]
        # Silence follows the last phoneme.
        phonemes.append(Phoneme("", start + part.seconds, start + part.seconds + 1e-3))
        samples.append(part.samples)
        start += part.seconds
    return Speech(np.concatenate(samples), phonemes)
