// The key's jobs of every API, whether they were submitted by this page or by a program.

import { apiNamed, valuesOf } from "./apis.js";
import { $, el, nameOf } from "./dom.js";
import { get } from "./server.js";

const REFRESH_INTERVAL = 5000;
const LABELS = { queued: "waiting", running: "running", completed: "done", failed: "failed", cancelled: "cancelled" };

export class History {
  constructor() {
    this.jobs = [];
    this.shown = null;
    setInterval(() => {
      const unfinished = this.jobs.some((job) => !job.ended_at);
      if (unfinished && !document.hidden) this.refresh().catch(() => {});
    }, REFRESH_INTERVAL);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.refresh().catch(() => {});
    });
  }

  async refresh() {
    this.jobs = (await get("local/jobs")).jobs;
    this.render();
  }

  // Adds or updates a job.
  update(job) {
    const index = this.jobs.findIndex(({ id }) => id === job.id);
    if (index < 0) this.jobs.unshift(job);
    else if (this.jobs[index].state === job.state) return;
    else this.jobs[index] = job;
    this.render();
  }

  mark(id) {
    this.shown = id;
    this.render();
  }

  render() {
    $("no-history").hidden = this.jobs.length > 0;
    const focused = document.activeElement?.closest?.("#history a")?.hash;
    $("history").replaceChildren(...this.jobs.map((job) => this.line(job)));
    if (focused) document.querySelector(`#history a[href="${focused}"]`)?.focus();
  }

  line(job) {
    const api = apiNamed(job.api);
    const { video, audio } = valuesOf(api, job.body);
    const begun = new Date(job.created_at);
    const link = el(
      "a",
      { href: `#${job.id}` },
      el("span", { className: `state ${job.state}` }, LABELS[job.state]),
      el("span", { className: "names" }, `${nameOf(video)} + ${nameOf(audio)}`),
      el("span", { className: "hint" }, api.label.split(" · ")[0]),
      el("time", { className: "hint", dateTime: begun.toISOString() }, begun.toLocaleString([], { dateStyle: "short", timeStyle: "short" })),
    );
    if (job.id === this.shown) link.setAttribute("aria-current", "true");
    return el("li", {}, link);
  }
}
