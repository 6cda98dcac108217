// The vendors' own pages, and the examples in them.
import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** The example in `language` on a page of `hosted-apis/`. */
export async function example(page, language) {
  const text = await readFile(join(process.env.LATENTSYNC_SHARED, "hosted-apis", page), "utf8");
  const blocks = [...text.matchAll(/```(\w+)\n([^]*?)```/g)];
  // The last: before it may come how a client is configured.
  const block = blocks.filter(([, name]) => name === language).at(-1);
  if (!block) throw new Error(`no example in ${language} on ${page}`);
  return block[2];
}
