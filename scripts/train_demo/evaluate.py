"""Measures how well the mouth follows the voice: runs the engine on people, voices and sentences outside the training set.

Started by `scripts/train_demo/evaluate`. Every person speaks one sentence in the input video (the source). The voice is another
sentence, and the renderer generates the ground truth for it (the truth). As a control, a third sentence (the other) is applied
to the truth's video: the output must then not correlate with the truth. Writes `evaluation.json`, `evaluation.md` with the
README's table, and `evaluation.png`.
"""

import argparse
import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from .clip import Clip
from .config import LATENT, RESOLUTION
from .data.align import crop_size
from .data.mask import pixel_mask
from .engine import program, read_face_cache, read_video, sync, write_video, write_voice
from .opening import OpeningMeter
from .paths import REPOSITORY

FIRST_SEED = 800_000
SIZE = 480
# Range of time offsets in frames that are searched for the best correlation.
MAX_OFFSET = 6
# Maximum correlation between the jaws of the other sentence and of the truth.
MAX_JAW_CORRELATION = 0.15
TARGETS = {
    "correlation of the opening with the truth, mean": (">=", 0.85),
    "the same, worst clip": (">=", 0.60),
    "the same with another sentence's voice, mean": ("<=", 0.20),
    "best time offset, largest, frames": ("<=", 1),
    "opening in silence, part of speaking, mean": ("<=", 0.15),
    "PSNR of the generated region, mean, dB": (">=", 24),
    "frames without a face": ("<=", 0),
    "warnings of the program": ("<=", 0),
}


@dataclass
class Person:
    """`source`: the clip with the source's mouth movements. `truth`: with the voice's. `other`: clip of a third sentence."""

    seed: int
    source: Clip
    truth: Clip
    other: Clip

    @classmethod
    def unseen(cls, seed: int) -> "Person":
        truth = Clip.random(seed, words=6, held_out=True)
        spoken = Clip.random(seed + 10_000, words=6, held_out=True)
        source = replace(truth, curves=fit(spoken.curves, len(truth.curves)))
        others = (Clip.random(seed + 10_000 * i, words=6, held_out=True) for i in itertools.count(2))
        return cls(seed, source, truth, next(other for other in others if not is_similar(other, truth)))


def is_similar(other: Clip, truth: Clip) -> bool:
    """Whether the jaw movements of the sentences are correlated by chance, which would make the control meaningless."""
    return abs(correlation(fit(other.curves, len(truth.curves))[:, 0], truth.curves[:, 0])) > MAX_JAW_CORRELATION


@dataclass
class Job:
    """Output of one run of the engine."""

    frames: np.ndarray
    report: dict


class PersonEvaluation:
    """Runs the engine on one person's videos, in `folder`."""

    def __init__(self, model: str, folder: Path, person: Person):
        self.model, self.folder, self.person = model, folder, person
        folder.mkdir(parents=True, exist_ok=True)
        self.source = np.stack([frame for frame, _ in person.source.frames(SIZE)])
        self.truth = np.stack([frame for frame, _ in person.truth.frames(SIZE)])
        write_video(folder / "source.mp4", self.source)
        write_video(folder / "truth.mp4", self.truth)

    def run(self, name: str, samples: np.ndarray, *options: str, video: str = "source") -> Job:
        """`samples`: the voice. The output is lossless, so that encoding does not affect the measurement."""
        write_voice(self.folder / f"{name}.wav", samples)
        out = self.folder / f"{name}.mkv"
        cache = ("--cache", str(self.folder / f"cache_{video}"), "--codec", "ffv1", "--seed", "1")
        report = sync(self.folder / f"{video}.mp4", self.folder / f"{name}.wav", out, self.model, *cache, *options)
        return Job(read_video(out)[: len(self.truth)], report)

    def regions(self) -> list[np.ndarray | None]:
        """(SIZE, SIZE) per source frame: 1 in the region that the engine generates; `None` without a face."""
        mask = pixel_mask(RESOLUTION)
        height, width = crop_size(RESOLUTION)
        y, x = np.mgrid[:SIZE, :SIZE].astype(float)
        regions: list[np.ndarray | None] = []
        for face in read_face_cache(next((self.folder / "cache_source").glob("*.faces")), (LATENT, LATENT, 4)):
            if face is None:
                regions.append(None)
                continue
            (a, b, c), (d, e, f) = face.matrix
            columns = (a * x + b * y + c + 0.5) * RESOLUTION / width - 0.5
            rows = (d * x + e * y + f + 0.5) * RESOLUTION / height - 0.5
            kept = map_coordinates(mask, [rows, columns], order=1, cval=1.0)
            regions.append((kept < 0.02).astype(float))
        return regions


def psnr(got: np.ndarray, want: np.ndarray, regions: list[np.ndarray | None]) -> float:
    """PSNR in dB over the regions of all frames."""
    total = weight = 0.0
    for one, other, region in zip(got, want, regions):
        if region is not None:
            total += ((one.astype(float) - other) ** 2 * region[..., None]).sum()
            weight += 3 * region.sum()
    return float(10 * np.log10(255**2 / (total / max(weight, 1))))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    count = min(len(a), len(b))
    a, b = a[:count], b[:count]
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def best_offset(got: np.ndarray, want: np.ndarray) -> int:
    """Number of frames by which `got` lags behind `want`."""
    count = min(len(got), len(want))
    got, want = got[:count], want[:count]

    def at(late: int) -> float:
        return correlation(got[max(late, 0) : count + min(late, 0)], want[max(-late, 0) : count - max(late, 0)])

    return max(range(-MAX_OFFSET, MAX_OFFSET + 1), key=at)


def evaluate_person(evaluation: PersonEvaluation, variants: bool) -> tuple[dict, np.ndarray]:
    """Returns the metrics, and the output frames for the voice, (frames, SIZE, SIZE, 3)."""
    person = evaluation.person
    meter = OpeningMeter(person.truth, SIZE)
    samples = person.truth.speech.samples
    spoken = evaluation.run("voice", samples)
    openings = meter.measure(spoken.frames)
    truth = meter.true_openings()
    ceiling = meter.measure(evaluation.truth)
    regions = evaluation.regions()
    other_samples = fit(person.other.speech.samples, len(samples))
    other = meter.measure(evaluation.run("other", other_samples, video="truth").frames)
    other_curves = fit(person.other.curves, len(truth))
    silent = meter.measure(evaluation.run("silence", np.zeros_like(samples)).frames)
    figures = {
        "seed": person.seed,
        "voice": person.truth.voice.name,
        "text": person.truth.text,
        "frames": len(spoken.frames),
        "frames_without_face": sum(
            part["last"] - part["first"] + 1
            for part in spoken.report["frames_without_face"] + spoken.report["frames_bridged"] + spoken.report["frames_held"]
        ),
        "warnings": spoken.report["warnings"],
        "correlation": correlation(openings, truth),
        "correlation_ceiling": correlation(ceiling, truth),
        "correlation_other_voice": correlation(other, truth),
        "truths_correlation": correlation(meter.openings_of(other_curves), truth),
        "correlation_source": correlation(openings, meter.openings_of(person.source.curves)),
        "offset": best_offset(openings, truth),
        "opening": float(openings.mean()),
        "opening_truth": float(ceiling.mean()),
        # The zero of the measurement is an average; values below it mean a closed mouth.
        "opening_in_silence": float(silent.clip(0).mean() / openings.clip(0).mean()),
        "psnr": psnr(spoken.frames, evaluation.truth, regions),
        "psnr_source": psnr(evaluation.source, evaluation.truth, regions),
        "seconds_per_output_second": spoken.report["seconds_per_output_second"],
        "denoising_seconds": spoken.report["stage_seconds"]["denoise_latents"],
    }
    if variants:
        for name, options in (("guidance_1_5", ("--guidance-scale", "1.5")), ("deepcache", ("--deepcache",))):
            job = evaluation.run(name, samples, *options)
            variant = meter.measure(job.frames)
            figures[name] = {
                "correlation": correlation(variant, truth),
                "opening": float(variant.mean()),
                "psnr": psnr(job.frames, evaluation.truth, regions),
                "denoising_seconds": job.report["stage_seconds"]["denoise_latents"],
            }
    figures["curves"] = {
        "truth": truth.round(4).tolist(),
        "ceiling": ceiling.round(4).tolist(),
        "output": openings.round(4).tolist(),
    }
    return figures, spoken.frames


def fit(values: np.ndarray, length: int) -> np.ndarray:
    """Repeats `values` along the first axis up to `length`."""
    repeats = (-(-length // len(values)), *[1] * (values.ndim - 1))
    return np.tile(values, repeats)[:length]


def summary(people: list[dict]) -> dict[str, float]:
    def column(key: str) -> np.ndarray:
        return np.array([person[key] for person in people])

    figures = {
        "people": len(people),
        "correlation of the opening with the truth, mean": column("correlation").mean(),
        "the same, worst clip": column("correlation").min(),
        "the truth's own picture, measured alike, mean": column("correlation_ceiling").mean(),
        "the same with another sentence's voice, mean": column("correlation_other_voice").mean(),
        "that sentence's truth with this one's, mean": column("truths_correlation").mean(),
        "the opening with the source video's mouth, mean": column("correlation_source").mean(),
        "best time offset, largest, frames": np.abs(column("offset")).max(),
        "opening in silence, part of speaking, mean": column("opening_in_silence").mean(),
        "opening in silence, worst clip": column("opening_in_silence").max(),
        "opening, part of the truth's": column("opening").mean() / column("opening_truth").mean(),
        "PSNR of the generated region, mean, dB": column("psnr").mean(),
        "PSNR, worst clip, dB": column("psnr").min(),
        "PSNR of the unchanged source, dB": column("psnr_source").mean(),
        "seconds per second of output": column("seconds_per_output_second").mean(),
        "frames without a face": column("frames_without_face").sum(),
        "warnings of the program": sum(len(person["warnings"]) for person in people),
    }
    for name, title in (("guidance_1_5", "guidance 1.5"), ("deepcache", "DeepCache")):
        both = [person for person in people if name in person]
        for key in ("correlation", "opening", "psnr", "denoising_seconds") if both else ():
            change = np.mean([person[name][key] - person[key] for person in both])
            figures[f"{title}, {len(both)} people: change of {key.replace('_', ' ')}"] = change
    return {key: round(float(value), 4) for key, value in figures.items()}


def table(figures: dict[str, float]) -> tuple[str, bool]:
    lines, passed = ["| Metric | Target | Measured |", "|---|---|---|"], True
    for key, value in figures.items():
        sign, bound = TARGETS.get(key, ("", None))
        if bound is not None:
            passed &= value >= bound if sign == ">=" else value <= bound
        target = "" if bound is None else f"{'at least' if sign == '>=' else 'at most'} {bound}"
        lines.append(f"| {key} | {target} | {value:g} |")
    return "\n".join(lines) + "\n", passed


def strip_of(evaluation: PersonEvaluation, output: np.ndarray, figures: dict) -> Image.Image:
    """Crops of source, output and truth around the mouth at six times, above the curves of the mouth's opening."""
    indices = np.linspace(0, len(output) - 1, 8).astype(int)[1:-1]
    top, left, side = SIZE // 2 - 20, SIZE // 2 - 100, 200
    part = (slice(top, top + side), slice(left, left + side))
    rows = [np.concatenate([frames[i][part] for i in indices], 1) for frames in (evaluation.source, output, evaluation.truth)]
    plot = Image.new("RGB", (rows[0].shape[1], 120), "white")
    draw = ImageDraw.Draw(plot)
    for key, colour in (("truth", "black"), ("output", "red")):
        values = figures["curves"][key]
        draw.line([(x, 115 - 250 * y) for x, y in zip(np.linspace(0, plot.width, len(values)), values)], fill=colour, width=2)
    return Image.fromarray(np.concatenate([*rows, np.asarray(plot)]))


def fingerprint(model: str) -> str:
    """Hash of the program, the model and these scripts, so that results of different versions are kept apart."""
    folders = (Path(model), Path(__file__).parent)
    files = [program(), *(path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc")]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/train_demo/evaluate", description=__doc__)
    parser.add_argument("--model", default="demo", help="`demo` (built in) or a directory")
    parser.add_argument("--people", type=int, default=20, help="number of people to evaluate")
    parser.add_argument("--variants", type=int, default=5, help="number of people for which guidance and DeepCache are evaluated as well")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/evaluate_demo", help="directory of intermediate files")
    parser.add_argument("--out", type=Path, help="directory of the results (default: WORK)")
    options = parser.parse_args()
    work = options.work / fingerprint(options.model)
    work.mkdir(parents=True, exist_ok=True)
    people = []
    for number in range(options.people):
        name = f"person{number:02}"
        path, variants = work / f"{name}.json", number < options.variants
        figures = json.loads(path.read_text()) if path.exists() else {}
        if not figures or variants and "deepcache" not in figures:
            evaluation = PersonEvaluation(options.model, work / name, Person.unseen(FIRST_SEED + number))
            figures, output = evaluate_person(evaluation, variants)
            strip_of(evaluation, output, figures).save(work / f"{name}.png")
            path.write_text(json.dumps(figures))
            print(json.dumps({key: value for key, value in figures.items() if key != "curves"}), flush=True)
        people.append(figures)
    figures = summary(people)
    text, passed = table(figures)
    out = options.out or options.work
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.md").write_text(text)
    (out / "evaluation.json").write_text(json.dumps({"summary": figures, "people": people}) + "\n")
    strips = [np.asarray(Image.open(work / f"person{number:02}.png")) for number in range(min(6, options.people))]
    Image.fromarray(np.concatenate(strips)).save(out / "evaluation.png")
    print(text)
    if not passed:
        raise SystemExit("the model misses at least one target")


if __name__ == "__main__":
    main()
