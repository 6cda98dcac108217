// The same job as code that can be pasted and run.

const KEY = "LATENTSYNC_API_KEY";

// Text in single quotes, for a shell.
const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const literal = (path) => path.map((key) => (typeof key === "number" ? `[${key}]` : `["${key}"]`)).join("");
const dotted = (path) => path.map((key) => (typeof key === "number" ? `[${key}]` : `.${key}`)).join("");

function curl({ api, server, body, key }) {
  const header = key ? ` \\\n  -H "Authorization: Key $${KEY}"` : "";
  const get = key ? `curl -sS -H "Authorization: Key $${KEY}"` : "curl -sS";
  const text = (path) => {
    const list = typeof path.at(-1) === "number";
    return `sed -E 's/.*"${path.at(list ? -2 : -1)}":${list ? "\\[" : ""}"([^"]*)".*/\\1/'`;
  };
  const of = (path) => path.replace("ID", "$job");
  return `server=${quoted(server)}
job=$(curl -sS "$server${api.submit}"${header} \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(body)} | ${text(api.id)})
echo "$job"
while ${get} "$server${of(api.status)}" | grep -qE '"status":"(${api.running.join("|")})"'; do sleep 2; done
${get} "$server${of(api.result ?? api.status)}" | tee result.json
curl -sS -o out.mp4 "$(${text(api.output)} result.json)"`;
}

function python({ api, server, body, key }) {
  const of = (path) => `f"${path.replace("ID", "{job}")}"`;
  const state = `call(${of(api.status)})${literal(api.state)}`;
  const authorization = key ? `, "Authorization": "Key " + os.environ["${KEY}"]` : "";
  return `import json, ${key ? "os, " : ""}time
from urllib.request import Request, urlopen, urlretrieve

SERVER = ${JSON.stringify(server)}
HEADERS = {"Content-Type": "application/json"${authorization}}

def call(path, body=None):
    data = body and json.dumps(body).encode()
    with urlopen(Request(SERVER + path, data, HEADERS)) as answer:
        return json.load(answer)

job = call("${api.submit}", ${body})${literal(api.id)}
while ${state} in ${JSON.stringify(api.running)}:
    time.sleep(2)
result = call(${of(api.result ?? api.status)})
print(result)
urlretrieve(result${literal(api.output)}, "out.mp4")`;
}

function javascript({ api, server, body, key }) {
  const of = (path) => (path.includes("ID") ? `\`${path.replace("ID", "${job}")}\`` : `"${path}"`);
  const authorization = key ? `, Authorization: \`Key \${process.env.${KEY}}\`` : "";
  return `// sample.mjs, for Node 18 and newer
import { writeFile } from "node:fs/promises";

const server = ${JSON.stringify(server)};
const headers = { "Content-Type": "application/json"${authorization} };

async function call(path, body) {
  const request = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  const answer = await fetch(server + path, request);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const job = (await call("${api.submit}", ${body}))${dotted(api.id)};
const running = ${JSON.stringify(api.running)};
while (running.includes((await call(${of(api.status)}))${dotted(api.state)})) {
  await new Promise((done) => setTimeout(done, 2000));
}
const result = await call(${of(api.result ?? api.status)});
console.log(result);
const video = await fetch(result${dotted(api.output)});
await writeFile("out.mp4", Buffer.from(await video.arrayBuffer()));`;
}

function cli({ api, values, settings }) {
  const flags = [
    ["video", values.video],
    ["audio", values.audio],
    ["guidance-scale", api.guided ? values.guidance_scale : undefined],
    ["seed", api.guided ? values.seed : undefined],
    [api.mode?.field.replace("_", "-") ?? "", api.mode && (values.mode ?? api.mode.usual)],
    ["steps", settings?.steps],
    ["model", settings?.model],
  ];
  const given = flags.filter(([, value]) => value !== undefined && value !== null);
  const plain = (value) => (/^[\w.:/-]+$/.test(value) ? value : quoted(value));
  const options = given.map(([name, value]) => `  --${name} ${plain(value)} \\\n`);
  // A server with keys does not reveal the path of its model.
  const model = settings && !settings.model ? "# add --model: the server runs one that is not published\n" : "";
  return `${model}latentsync sync \\\n${options.join("")}  -o out.mp4`;
}

const LANGUAGES = { curl, python, javascript, cli };

// The code of a job: `values` of the form, `server` its URL, `key` whether a key is required, `settings` those of the
// server.
export function sample(language, job) {
  const values = {
    ...job.values,
    video: job.values.video || "https://example.com/video.mp4",
    audio: job.values.audio || "https://example.com/voice.wav",
  };
  const body = JSON.stringify(job.api.body(values), null, 2);
  return LANGUAGES[language]({ ...job, values, body });
}
