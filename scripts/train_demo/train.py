"""Makes the demo model, from nothing to files that the engine loads. Started by `scripts/train_demo/train`."""

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
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="what the training may take, the rendering of its data not counted")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/train_demo", help="data and checkpoints; a second run goes on there")
    parser.add_argument("--out", type=Path, help="where the model goes (WORK/model)")
    parser.add_argument("--clips", type=int, default=config.Data.clips, help="people to render")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch-scale", type=int, default=1, metavar="N", help="N times the batches, for a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the training, and processes of the rendering")
    return parser.parse_args()


def claim(work: Path, data: config.Data) -> None:
    """Refuses a directory whose data is of other sizes: files that are there already are not made again."""
    work.mkdir(parents=True, exist_ok=True)
    stamp, wanted = work / "data.json", json.dumps(dataclasses.asdict(data) | {"seed": config.SEED})
    if stamp.exists() and stamp.read_text() != wanted:
        raise SystemExit(f"`{work}` has data of other settings, see `{stamp}`: remove it, or name another directory with --work")
    stamp.write_text(wanted)


def render(work: Path, data: config.Data, processes: int) -> None:
    """In processes of their own: espeak-ng and the renderer use one core each."""
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=build, args=(work, data, (i, processes))) for i in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        raise SystemExit("rendering failed, see above; a second run goes on where it ended")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    # TF32, where there is such a thing.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    plans = {
        name: dataclasses.replace(plan, batch=plan.batch * options.batch_scale) for name, plan in config.STAGES.items()
    }
    work: Path = options.work
    data = dataclasses.replace(config.Data(), clips=options.clips)
    claim(work, data)
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
    listener = run(AudioStage(plans["audio"], work, validation, device)).network
    whisper: AudioEncoder = listener.encoder
    train_latents = encode_clips(work, "", clips, vae, whisper)
    held_out = encode_clips(work, "v", validation, vae, whisper)
    # One scale for all: the training's.
    held_out.scaling = train_latents.scaling

    single = run(UnetStage(plans["unet"], (train_latents, held_out), vae, motion=False))
    moving = UnetStage(plans["motion"], (train_latents, held_out), vae, motion=True)
    moving.network.load_state_dict(single.network.state_dict())
    unet: UNet3D = run(moving).network

    vae.cfg = dataclasses.replace(vae.cfg, scaling_factor=train_latents.scaling)
    out = options.out or work / "model"
    steps = sum(torch.load(work / f"{name}.pt", weights_only=True)["step"] for name in ("unet", "motion"))
    size = export(out, unet.cpu(), vae.cpu(), whisper.cpu(), steps, train_latents.posterior[::4, 2])
    print(f"the model is in `{out}`, {size / 1e6:.1f} MB; the curves are in `{work / 'curves.png'}`")


if __name__ == "__main__":
    main()
