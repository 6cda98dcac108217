// Talking to the server. Every path is relative to the page, so that it works below a proxy's path.

import { pause } from "./dom.js";

const KEY = "latentsync.key";
// The server says something every five seconds; after this long the connection is dead.
const SILENCE = 20_000;
const LONGEST_PAUSE = 10_000;

// An answer that is no success, or none at all (`status` 0). `answer` is its JSON.
export class Failed extends Error {
  constructor(status, answer, text) {
    super(answer?.detail ?? text);
    this.status = status;
    this.answer = answer;
  }
}

const gone = () => new Failed(0, null, "The server does not answer. Is it still running?");

export const here = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

// The key lives as long as the tab does.
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("Authorization", `Key ${key.get()}`);
  if (options.body) headers.set("Content-Type", "application/json");
  let answer;
  try {
    answer = await fetch(here(path), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw gone();
  }
  if (!answer.ok) {
    const text = await answer.text().catch(() => "");
    throw new Failed(answer.status, parsed(text), text || `the server answered ${answer.status}`);
  }
  return answer;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export const get = async (path) => (await request(path)).json();
export const post = async (path, body) =>
  (await request(path, { method: "POST", body: body && JSON.stringify(body) })).json();

// Whether the server takes jobs, and how many wait; it says so without a key.
export async function readiness() {
  try {
    const answer = await fetch(here("readyz"), { cache: "no-store" });
    return await answer.json();
  } catch {
    return null;
  }
}

// Uploads a file as fal's client does, and returns its URL. `progress` is told the part that is done.
export async function upload(file, type, progress, signal) {
  const slot = await post("storage/upload/initiate", { file_name: file.name, content_type: type });
  const path = /\/(media\/[^?#]+)$/.exec(slot.upload_url)[1];
  // XMLHttpRequest, because `fetch` does not tell how much of a body has been sent.
  await new Promise((done, failed) => {
    const put = new XMLHttpRequest();
    put.upload.onprogress = ({ loaded, total }) => progress(total ? loaded / total : 0);
    put.onload = () => {
      if (put.status < 300) return done();
      failed(new Failed(put.status, parsed(put.responseText), put.responseText));
    };
    put.onerror = () => failed(gone());
    put.onabort = () => failed(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => put.abort());
    put.open("PUT", here(path));
    put.setRequestHeader("Content-Type", type);
    put.send(file);
  });
  return slot.file_url;
}

// Follows a job to its end, over as many connections as it takes. `told` gets each event, `lost` is told when
// a connection broke off.
export async function follow(id, { told, lost, signal }) {
  let known = 0;
  let wait = 500;
  while (!signal.aborted) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, SILENCE);
    try {
      const headers = { "Last-Event-ID": String(known) };
      const answer = await request(`local/jobs/${id}/events`, { headers, signal: connection.signal });
      for await (const event of eventsOf(answer.body)) {
        clearTimeout(silence);
        silence = setTimeout(stop, SILENCE);
        known = event.id;
        wait = 500;
        told(event.data);
        if (event.data.job.ended_at) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      // What the server has refused it will refuse again.
      if (error instanceof Failed && error.status >= 400 && error.status < 500) throw error;
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
    }
    lost();
    await pause(wait);
    wait = Math.min(wait * 2, LONGEST_PAUSE);
  }
}

// Server-sent events. `EventSource` would do, but it cannot send a key.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const field = (event, name) => new RegExp(`^${name}: ?(.*)$`, "m").exec(event)?.[1];
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const data = field(event, "data");
        if (data) yield { id: Number(field(event, "id")), data: JSON.parse(data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
