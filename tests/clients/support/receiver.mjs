// A local server of the clips, which also receives webhooks.
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { clips } from "./server.mjs";

/** Limit of the wait for a webhook, for a busy machine. */
const TIMEOUT_MILLISECONDS = 120_000;

async function withTimeout(promise) {
  const late = new AbortController();
  const limit = sleep(TIMEOUT_MILLISECONDS, undefined, { signal: late.signal }).then(() => {
    throw new Error("no webhook within the time limit");
  });
  limit.catch(() => {});
  try {
    return await Promise.race([promise, limit]);
  } finally {
    late.abort();
  }
}

/** Serves the clips at `GET /NAME` and an empty page at `GET /`. `next()` returns the next POST request. */
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
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const message = { path: request.url, headers: request.headers, body: Buffer.concat(chunks) };
    const first = waiting.shift();
    if (first) first(message);
    else messages.push(message);
    response.end();
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return {
    url: `http://127.0.0.1:${http.address().port}`,
    next: () => (messages.length ? messages.shift() : withTimeout(new Promise((resolve) => waiting.push(resolve)))),
    stop: () => {
      http.close();
      http.closeAllConnections();
    },
  };
}
