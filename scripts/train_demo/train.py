"""Creates the demo model: data, training and export. Started by `scripts/train_demo/train`."""

import argparse
import dataclasses
import json
import multiprocessing
import os
from pathlib import Path

import torch

from . import config, curves
from .data.clips import build
from .data.dataset import Clips
from .export import export
from .networks.autoencoder_kl import AutoencoderKL
from .networks.unet3d import UNet3D
from .networks.whisper import AudioEncoder
from .paths import REPOSITORY
from .training.audio import AudioStage
from .training.latents import encode_clips
from .training.loop import Stage, Trainer
from .training.unet import UnetStage
from .training.vae import VaeStage


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/train_demo/train", description=__doc__)
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="time limit of the training, without rendering")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/train_demo", help="directory of data and checkpoints; a second run resumes from it")
    parser.add_argument("--out", type=Path, help="directory of the model (default: WORK/model)")
    parser.add_argument("--clips", type=int, default=config.Data.clips, help="number of people to render")
    parser.add_argument("--device", default="cpu", help="`cpu` or `cuda`")
    parser.add_argument("--batch-scale", type=int, default=1, metavar="N", help="multiply the batch sizes by N, for a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the training, and processes of the rendering")
    return parser.parse_args()


def check_settings(work: Path, data: config.Data) -> None:
    """Rejects a work directory with data of other settings, because existing files are not generated again."""
    work.mkdir(parents=True, exist_ok=True)
    stamp, settings = work / "data.json", json.dumps(dataclasses.asdict(data) | {"seed": config.SEED})
    if stamp.exists() and stamp.read_text() != settings:
        raise SystemExit(f"`{work}` contains data of other settings, see `{stamp}`: delete it, or choose another directory with --work")
    stamp.write_text(settings)


def render(work: Path, data: config.Data, processes: int) -> None:
    """Renders in several processes: espeak-ng and the renderer use one core each."""
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=build, args=(work, data, (i, processes))) for i in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        raise SystemExit("rendering failed, see above; a second run resumes")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    # TF32 on GPUs that support it.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    plans = {
        name: dataclasses.replace(plan, batch=plan.batch * options.batch_scale) for name, plan in config.STAGES.items()
    }
    work: Path = options.work
    data = dataclasses.replace(config.Data(), clips=options.clips)
    check_settings(work, data)
    render(work, data, options.threads)
    clips, validation = Clips(work), Clips(work, "v")

    def run(stage: Stage) -> Stage:
        plan = plans[stage.name]
        seconds = options.budget * 60 * plan.share if options.budget else None
        Trainer(stage, plan, work, seconds).run()
        stage.network.eval().requires_grad_(False)
        curves.draw(work / "log.jsonl", work / "curves.png")
        return stage

    vae: AutoencoderKL = run(VaeStage(plans["vae"], clips, validation, device)).network
    probe = run(AudioStage(plans["audio"], work, validation, device)).network
    whisper: AudioEncoder = probe.encoder
    train_latents = encode_clips(work, "", clips, vae, whisper)
    held_out = encode_clips(work, "v", validation, vae, whisper)
    # Both sets use the scaling factor of the training set.
    held_out.scaling = train_latents.scaling

    image_stage = run(UnetStage(plans["unet"], (train_latents, held_out), vae, motion=False))
    motion_stage = UnetStage(plans["motion"], (train_latents, held_out), vae, motion=True)
    motion_stage.network.load_state_dict(image_stage.network.state_dict())
    unet: UNet3D = run(motion_stage).network

    vae.cfg = dataclasses.replace(vae.cfg, scaling_factor=train_latents.scaling)
    out = options.out or work / "model"
    steps = sum(torch.load(work / f"{name}.pt", weights_only=True)["step"] for name in ("unet", "motion"))
    size = export(out, unet.cpu(), vae.cpu(), whisper.cpu(), steps, train_latents.posterior[::4, 2])
    print(f"the model is in `{out}`, {size / 1e6:.1f} MB; the curves are in `{work / 'curves.png'}`")


if __name__ == "__main__":
    main()
