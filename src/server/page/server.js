// Requests to the server. Paths are relative to the page, so that it also works below a path of a proxy.

import { pause } from "./dom.js";

const KEY = "latentsync.key";
// The server sends an event at least every five seconds; after this long without one the connection is dead.
const EVENT_TIMEOUT = 20_000;
const MAX_PAUSE = 10_000;

// An error response, or no response (`status` 0). `answer` is its JSON.
export class Failed extends Error {
  constructor(status, answer, text) {
    super(answer?.detail ?? text);
    this.status = status;
    this.answer = answer;
  }
}

const unreachable = () => new Failed(0, null, "The server does not answer. Is it still running?");

export const here = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

// The key is kept until the tab is closed.
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
    throw unreachable();
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

// Readiness and queue length, which need no key; null if the server does not respond.
export async function readiness() {
  try {
    const answer = await fetch(here("readyz"), { cache: "no-store" });
    return await answer.json();
  } catch {
    return null;
  }
}

// Uploads a file as fal's client does, and returns its URL. `progress` is called with the fraction that is done.
export async function upload(file, type, progress, signal) {
  const slot = await post("storage/upload/initiate", { file_name: file.name, content_type: type });
  const path = /\/(media\/[^?#]+)$/.exec(slot.upload_url)[1];
  // XMLHttpRequest, because `fetch` has no upload progress.
  await new Promise((done, failed) => {
    const put = new XMLHttpRequest();
    put.upload.onprogress = ({ loaded, total }) => progress(total ? loaded / total : 0);
    put.onload = () => {
      if (put.status < 300) return done();
      failed(new Failed(put.status, parsed(put.responseText), put.responseText));
    };
    put.onerror = () => failed(unreachable());
    put.onabort = () => failed(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => put.abort());
    put.open("PUT", here(path));
    put.setRequestHeader("Content-Type", type);
    put.send(file);
  });
  return slot.file_url;
}

// Follows a job to its end, reconnecting when needed. `received` is called with each event, `lost` when a connection was
// lost.
export async function follow(id, { received, lost, signal }) {
  let known = 0;
  let wait = 500;
  while (!signal.aborted) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    signal.addEventListener("abort", stop);
    let timeout = setTimeout(stop, EVENT_TIMEOUT);
    try {
      const headers = { "Last-Event-ID": String(known) };
      const answer = await request(`local/jobs/${id}/events`, { headers, signal: connection.signal });
      for await (const event of eventsOf(answer.body)) {
        clearTimeout(timeout);
        timeout = setTimeout(stop, EVENT_TIMEOUT);
        known = event.id;
        wait = 500;
        received(event.data);
        if (event.data.job.ended_at) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      // A client error is not retried.
      if (error instanceof Failed && error.status >= 400 && error.status < 500) throw error;
    } finally {
      clearTimeout(timeout);
      signal.removeEventListener("abort", stop);
    }
    lost();
    await pause(wait);
    wait = Math.min(wait * 2, MAX_PAUSE);
  }
}

// Parses server-sent events. `EventSource` cannot send a key.
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
