// One job: state, progress, log and result.

import { apiNamed, valuesOf } from "./apis.js";
import { $, bytes, el, nameOf, ownFile, seconds } from "./dom.js";
import { Failed, follow, post } from "./server.js";

const STAGES = {
  decode_video: "Read the video",
  align_faces: "Find the face",
  audio_features: "Process the voice",
  encode_latents: "Encode",
  denoise_latents: "Denoise",
  decode_latents: "Decode",
  blend_faces: "Blend",
  mux_video: "Write",
};

// The section that shows a job. `moved` is called with every update of the job, `ended` when it has ended, and `again`
// to use its inputs again.
export class JobView {
  constructor({ ended, moved, again }) {
    Object.assign(this, { ended, moved });
    $("cancel").addEventListener("click", () => this.cancel());
    $("again").addEventListener("click", () => again(this.job));
    $("both").addEventListener("click", () => this.playBoth());
    const original = $("original");
    original.addEventListener("error", () => {
      if (original.getAttribute("src")) this.hideOriginal("This browser cannot show the original.");
    });
  }

  // Follows a job until it has ended or another one is shown.
  async show(id) {
    this.following?.abort();
    this.following = new AbortController();
    const { signal } = this.following;
    this.id = id;
    this.job = null;
    this.resultOf = null;
    $("log").replaceChildren();
    $("stages").replaceChildren();
    for (const part of ["log-part", "work", "result"]) $(part).hidden = true;
    this.say("…");
    try {
      await follow(id, {
        signal,
        received: ({ job, lines }) => {
          this.job = job;
          this.render(job);
          this.addLines(lines);
          this.moved(job);
          if (job.ended_at) this.ended(job);
        },
        lost: () => this.say("The connection broke off. Reconnecting …"),
      });
    } catch (error) {
      this.id = null;
      this.say(error.status === 404 ? "This job no longer exists." : error.message);
    }
  }

  async cancel() {
    $("cancel").disabled = true;
    try {
      await post(`local/jobs/${this.id}/cancel`);
    } catch (error) {
      if (!(error instanceof Failed && error.status === 409)) this.say(error.message);
      $("cancel").disabled = false;
    }
  }

  // Screen readers announce every change, so an unchanged text is not set again.
  say(text) {
    if ($("status").textContent !== text) $("status").textContent = text;
  }

  render(job) {
    $("status").className = job.state;
    this.say(describe(job));
    $("work").hidden = Boolean(job.ended_at);
    if (job.ended_at) $("cancel").disabled = false;
    else this.renderStages(job);
    $("result").hidden = !job.output;
    if (job.output && this.resultOf !== job.id) this.renderResult(job);
  }

  renderStages(job) {
    const list = $("stages");
    if (!list.childElementCount) {
      for (const [name, label] of Object.entries(STAGES)) {
        const bar = el("progress", { max: 1, value: 0, "aria-label": label });
        const row = el("div", {}, el("dt", {}, label), el("dd", {}, bar, el("span")));
        row.dataset.stage = name;
        list.append(row);
      }
    }
    for (const row of list.children) {
      const stage = job.stages.find(({ name }) => name === row.dataset.stage);
      const done = stage?.total ? stage.done / stage.total : 0;
      row.className = done >= 1 ? "done" : stage ? "begun" : "";
      row.querySelector("progress").value = done;
      row.querySelector("span").textContent = stage ? `${Math.floor(100 * done)} %` : "";
    }
  }

  renderResult(job) {
    this.resultOf = job.id;
    const { output } = job;
    const url = ownFile(output.url);
    const values = valuesOf(apiNamed(job.api), job.body);
    const name = `${nameOf(values.video).replace(/\.\w+$/, "")}-latentsync.mp4`;
    $("output").src = url;
    $("download").href = url;
    $("download").download = name;
    const original = ownFile(values.video);
    const shows = original && !/\.(png|jpe?g|gif|webp)$/i.test(original);
    if (shows) {
      $("original").src = original;
      $("original").hidden = false;
      $("both").hidden = false;
      $("original-note").replaceChildren();
    } else {
      const link = el("a", { href: values.video, rel: "noreferrer", target: "_blank" }, nameOf(values.video));
      this.hideOriginal("This page loads nothing from other hosts. Open the original: ", link);
    }
    const facts = {
      Length: `${seconds(output.seconds)}, ${output.frames} frames`,
      Size: bytes(output.bytes),
      Seed: output.seed,
      Took: seconds((job.ended_at - job.started_at) / 1000),
      "Frames without a face": output.frames_without_face || null,
      API: apiNamed(job.api).label,
    };
    const given = Object.entries(facts).filter(([, fact]) => fact !== null);
    $("facts").replaceChildren(...given.map(([name, fact]) => el("div", {}, el("dt", {}, name), el("dd", {}, fact))));
  }

  hideOriginal(...note) {
    $("original").removeAttribute("src");
    $("original").hidden = true;
    $("both").hidden = true;
    $("original-note").replaceChildren(...note);
  }

  // Plays both from the start, with the sound of the result only.
  playBoth() {
    const pair = [$("original"), $("output")];
    pair[0].muted = true;
    for (const video of pair) {
      video.currentTime = 0;
      video.play().catch(() => {});
    }
  }

  addLines(lines) {
    if (!lines.length) return;
    const log = $("log");
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    for (const { at, level, message } of lines) {
      const time = el("time", { dateTime: new Date(at).toISOString() }, new Date(at).toLocaleTimeString());
      const line = el("li", { className: level.toLowerCase() }, time, ` ${message}`);
      log.append(line);
    }
    $("log-part").hidden = false;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

// The state of a job in one sentence.
export function describe(job) {
  const took = () => seconds((job.ended_at - job.started_at) / 1000);
  switch (job.state) {
    case "queued":
      if (job.position === null) return "Waiting to start.";
      if (job.position === 0) return "Waiting: next in the queue.";
      return `Waiting: ${job.position} ${job.position === 1 ? "job comes" : "jobs come"} before it.`;
    case "running":
      return job.attempts > 1 ? "Running again: the server was restarted." : "Running.";
    case "completed":
      return `Done in ${took()}.`;
    case "cancelled":
      return "Cancelled.";
    default:
      return `Failed: ${job.error?.message ?? "see the server's log"}`;
  }
}
