// The key's jobs, as the server has them: whatever API they came by, and whether from this page or a program.

import { apiNamed, valuesOf } from "./apis.js";
import { $, el, nameOf } from "./dom.js";
import { get } from "./server.js";

const EVERY = 5000;
const WORDS = { queued: "waiting", running: "running", completed: "done", failed: "failed", cancelled: "cancelled" };

export class History {
  constructor() {
    this.jobs = [];
    this.shown = null;
    setInterval(() => {
      const moving = this.jobs.some((job) => !job.ended_at);
      if (moving && !document.hidden) this.refresh().catch(() => {});
    }, EVERY);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.refresh().catch(() => {});
    });
  }

  async refresh() {
    this.jobs = (await get("local/jobs")).jobs;
    this.render();
  }

  // Takes in what was heard of a job elsewhere.
  update(job) {
    const place = this.jobs.findIndex(({ id }) => id === job.id);
    if (place < 0) this.jobs.unshift(job);
    else if (this.jobs[place].state === job.state) return;
    else this.jobs[place] = job;
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
      el("span", { className: `state ${job.state}` }, WORDS[job.state]),
      el("span", { className: "names" }, `${nameOf(video)} + ${nameOf(audio)}`),
      el("span", { className: "hint" }, api.label.split(" · ")[0]),
      el("time", { className: "hint", dateTime: begun.toISOString() }, begun.toLocaleString([], { dateStyle: "short", timeStyle: "short" })),
    );
    if (job.id === this.shown) link.setAttribute("aria-current", "true");
    return el("li", {}, link);
  }
}
