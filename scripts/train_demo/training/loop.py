"""Training loop of all stages: steps, checkpoints, learning rate schedule, EMA of the weights, log."""

import json
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import SEED, StagePlan

CHECKPOINT_SECONDS = 120
LOG_STEPS = 50
VALIDATION_STEPS = 500
# A time budget is converted to a number of steps by timing the first `TIMED_STEPS`, without the `WARM_STEPS` of warm-up.
WARM_STEPS, TIMED_STEPS = 5, 25
EMA_DECAY = 0.999


class StepRandom:
    """Random numbers of one step, determined by seed, stage and step."""

    def __init__(self, stage: str, step: int):
        key = [SEED, *stage.encode(), step]
        self.numpy = np.random.default_rng(key)
        self.torch = torch.Generator().manual_seed(int(self.numpy.integers(2**62)))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.torch)


class Stage(ABC):
    """`name`: key of `config.STAGES`. `network`: the trained network, on `device`. StepRandom are drawn on the CPU, so that they
    are identical for every device."""

    name: str
    network: nn.Module
    device: torch.device

    @abstractmethod
    def loss(self, rng: StepRandom, progress: float) -> dict[str, Tensor]:
        """Losses of one step; `loss` is minimised, the others are logged. `progress`: 0..1."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Metrics of the EMA weights on unseen people."""
        return {}


def learning_rate_factor(progress: float, step: int) -> float:
    """Factor on the learning rate: linear warm-up over 100 steps, constant, cosine decay from 65 % of the steps on."""
    warm_up = min(1.0, (step + 1) / 100)
    return warm_up if progress < 0.65 else warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.65) / 0.35)))


class Trainer:
    """Runs one stage in `work`. `seconds`: time budget, replaces the plan's number of steps."""

    def __init__(self, stage: Stage, plan: StagePlan, work: Path, seconds: float | None):
        self.stage, self.plan, self.work, self.seconds = stage, plan, work, seconds
        self.path = work / f"{stage.name}.pt"
        decayed = [p for p in stage.network.parameters() if p.requires_grad and p.dim() > 1]
        others = [p for p in stage.network.parameters() if p.requires_grad and p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
        self.average = {key: value.detach().clone() for key, value in stage.network.state_dict().items()}
        self.step, self.steps, self.spent, self.warm = 0, 0 if seconds else plan.steps, 0.0, 0.0
        self.finished = False
        if self.path.exists():
            self._restore(torch.load(self.path, weights_only=True, map_location=stage.device))
        self._truncate_log()

    def _restore(self, state: dict) -> None:
        self.stage.network.load_state_dict(state["network"])
        self.average = state["average"]
        # A finished stage continues if the plan now has more steps.
        self.step, self.steps = state["step"], self.steps or state["steps"]
        self.spent, self.warm = state["spent"], state["warm"]
        self.finished = bool(self.steps) and self.step >= self.steps
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        state = {
            "network": self.stage.network.state_dict(),
            "average": self.average,
            "step": self.step,
            "steps": self.steps,
            "spent": self.spent,
            "warm": self.warm,
        }
        if not self.finished:
            state["optimizer"] = self.optimizer.state_dict()
        unfinished = self.path.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self.path)

    def run(self) -> None:
        """Trains from the last checkpoint to the end. Afterwards the network has the EMA weights."""
        network = self.stage.network
        saved = logged = time.monotonic()
        sums: dict[str, Tensor | float] = {}
        while not self.finished:
            began = time.monotonic()
            progress = self.step / self.steps if self.steps else 0.0
            for group in self.optimizer.param_groups:
                group["lr"] = self.plan.learning_rate * learning_rate_factor(progress, self.step)
            losses = self.stage.loss(StepRandom(self.stage.name, self.step), progress)
            self.optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            self.optimizer.step()
            self._update_average(min(EMA_DECAY, (1 + self.step) / (10 + self.step)))
            self.step += 1
            if self.step <= TIMED_STEPS and self.stage.device.type == "cuda":
                torch.cuda.synchronize()
            self.spent += time.monotonic() - began
            if self.step == WARM_STEPS:
                self.warm = self.spent
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + value.detach()
            if not self.steps and self.step >= TIMED_STEPS:
                step_seconds = (self.spent - self.warm) / (TIMED_STEPS - WARM_STEPS)
                self.steps = max(TIMED_STEPS, int((self.seconds - self.warm) / step_seconds))
            if self.step % LOG_STEPS == 0:
                figures = {key: float(value) / LOG_STEPS for key, value in sums.items()}
                self._log(figures | {"step_seconds": round((time.monotonic() - logged) / LOG_STEPS, 3)})
                sums, logged = {}, time.monotonic()
            self.finished = bool(self.steps) and self.step >= self.steps
            if self.step % VALIDATION_STEPS == 0 or self.finished:
                self._log({f"validation_{k}": v for k, v in self._validate().items()})
                logged = time.monotonic()
            if time.monotonic() - saved > CHECKPOINT_SECONDS or self.finished:
                self.save()
                saved = time.monotonic()
        network.load_state_dict(self.average)

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        state = self.stage.network.state_dict()
        torch._foreach_lerp_([self.average[key] for key in state], list(state.values()), 1 - decay)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        network = self.stage.network
        kept = {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict(self.average)
        network.eval()
        figures = self.stage.validate(network)
        network.train()
        network.load_state_dict(kept)
        return figures

    def _truncate_log(self) -> None:
        """Removes the log entries after the checkpoint, because these steps are repeated."""
        log = self.work / "log.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        # An interruption may have truncated the last line.
        entries = [(line, json.loads(line)) for line in lines if line.endswith("\n")]
        kept = [line for line, entry in entries if entry["stage"] != self.stage.name or entry["step"] <= self.step]
        if kept != lines:
            unfinished = log.with_suffix(".part")
            unfinished.write_text("".join(kept))
            os.replace(unfinished, log)

    def _log(self, figures: dict[str, float]) -> None:
        if not figures:
            return
        line = {"stage": self.stage.name, "step": self.step, "of": self.steps} | {
            key: float(f"{value:.5g}") for key, value in figures.items()
        }
        with (self.work / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)
