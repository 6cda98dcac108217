// Examples in the vendors' documentation pages.
import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** The last example in `language` on a page in `hosted-apis/` of the shared material. */
export async function example(page, language) {
  const text = await readFile(join(process.env.LATENTSYNC_SHARED, "hosted-apis", page), "utf8");
  const blocks = [...text.matchAll(/```(\w+)\n([^]*?)```/g)];
  // An earlier example may show the configuration of the client.
  const block = blocks.filter(([, name]) => name === language).at(-1);
  if (!block) throw new Error(`no example in ${language} on ${page}`);
  return block[2];
}
