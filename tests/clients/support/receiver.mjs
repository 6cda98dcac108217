// Somebody who receives webhooks, and serves files, on this machine.
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { clips } from "./server.mjs";

/** How long a webhook may take: a job of the small model, on a busy machine. */
const PATIENCE_MILLISECONDS = 120_000;

async function inTime(promise) {
  const late = new AbortController();
  const limit = sleep(PATIENCE_MILLISECONDS, undefined, { signal: late.signal }).then(() => {
    throw new Error("no webhook came");
  });
  limit.catch(() => {});
  try {
    return await Promise.race([promise, limit]);
  } finally {
    late.abort();
  }
}

/** Answers `GET /NAME` with a clip, `GET /` with an empty page, and keeps what is posted for `next()`. */
export async function startReceiver() {
  const messages = [];
  const waiting = [];
  const http = createServer(async (request, response) => {
    if (request.method === "GET") {
      const name = basename(request.url);
      const content = name ? await readFile(join(clips, name)).catch(() => null) : "<!doctype html>";
      response.writeHead(content ? 200 : 404, name ? {} : { "content-type": "text/html" }).end(content ?? undefined);
      return;
    }
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const message = { path: request.url, headers: request.headers, body: Buffer.concat(pieces) };
    const first = waiting.shift();
    if (first) first(message);
    else messages.push(message);
    response.end();
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return {
    url: `http://127.0.0.1:${http.address().port}`,
    next: () => (messages.length ? messages.shift() : inTime(new Promise((resolve) => waiting.push(resolve)))),
    stop: () => {
      http.close();
      http.closeAllConnections();
    },
  };
}
