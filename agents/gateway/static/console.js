// The live console: figures by server-sent events, nodes by polling. Unknown is shown as "unknown", never as 0.
"use strict";

const at = (id) => document.getElementById(id);
const figure = (value, unit, digits = 0) => (value === null || value === undefined ? "unknown"
  : `${value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${unit}`);
let key = sessionStorage.getItem("eo-key") || "";
let lastId = "";
let failures = 0;

const ask = (path, more = {}) => {
  const headers = { ...(more.headers || {}) };
  if (key) headers.Authorization = `Bearer ${key}`;
  return fetch(path, { ...more, headers });
};

const label = (quality) => {
  const simulated = quality === "simulated" || quality === "mixed";
  at("label").hidden = !simulated;
  at("label").textContent = quality === "mixed" ? "PARTLY SIMULATED" : "SIMULATED";
};

const tick = (now) => {
  const ours = now.groups.controlled;
  const base = now.groups["hold-out"];
  at("controlled").textContent = figure(ours.power_w_per_gpu, "W");
  at("controlled-n").textContent = ours.gpus;
  at("holdout").textContent = figure(base.power_w_per_gpu, "W");
  at("holdout-n").textContent = base.gpus;
  const known = ours.power_w_per_gpu !== null && base.power_w_per_gpu;
  at("change").textContent = known ? figure((ours.power_w_per_gpu / base.power_w_per_gpu - 1) * 100, "%", 1) : "unknown";
  at("total").textContent = figure(now.power_w === null ? null : now.power_w / 1000, "kW", 1);
  at("unknown").textContent = `${now.gpus} GPUs, ${now.gpus_power_unknown} of unknown power`;
  at("tbt").textContent = `${figure(ours.tbt_p99_ms, "ms")} / ${figure(base.tbt_p99_ms, "ms")}`;
  at("capped").textContent = now.capped;
  label(now.quality);
};

const alertRow = (one) => {
  const line = document.createElement("p");
  line.className = one.state === "resolved" ? "good" : "bad";
  const when = new Date(one.ts_ns / 1e6).toLocaleTimeString();
  line.textContent = `${when} ${one.state} ${one.severity} ${one.rule}${one.node ? ` on ${one.node}` : ""}: ${one.summary}`;
  return line;
};

const addAlert = (one) => {
  const box = at("alerts");
  if (box.firstElementChild && box.firstElementChild.textContent === "None seen.") box.replaceChildren();
  box.prepend(alertRow(one));
  while (box.children.length > 20) box.lastElementChild.remove();
};

const cell = (text, number = false) => {
  const made = document.createElement("td");
  made.textContent = text;
  if (number) made.className = "n";
  return made;
};

const nodeRow = (node) => {
  const row = document.createElement("tr");
  if (node.stale) row.className = "stale";
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = node.node;
  row.append(name, cell(node.gpus, true), cell(figure(node.power_w, "W"), true), cell(node.capped, true), cell(node.mode),
    cell(figure(node.lease_left_s, "s"), true), cell(figure(node.age_s, "s", 1), true),
    cell(node.stale ? `${node.quality}, silent` : node.quality), cell(node.reason));
  return row;
};

const nodes = async () => {
  try {
    const answer = await ask("/v1/nodes?limit=2000");
    if (answer.status === 401 || answer.status === 403) return wantKey();
    if (answer.ok) {
      const wanted = at("filter").value.trim();
      const rows = (await answer.json()).items.filter((node) => node.node.includes(wanted));
      at("nodes").tBodies[0].replaceChildren(...rows.map(nodeRow));
    }
  } catch { /* the stream says that the gateway is away */ }
  return undefined;
};

const wantKey = () => {
  at("keyform").hidden = false;
  at("state").textContent = "a key is needed";
};

const handle = (text) => {
  const event = { type: "message", data: "" };
  for (const line of text.split(/\r?\n/)) {
    const split = line.indexOf(":");
    if (split <= 0) continue;
    const value = line.slice(split + 1).replace(/^ /, "");
    if (line.startsWith("event:")) event.type = value;
    else if (line.startsWith("data:")) event.data += value;
    else if (line.startsWith("id:")) lastId = value;
  }
  if (!event.data) return;
  const data = JSON.parse(event.data);
  if (event.type === "tick") tick(data);
  else if (event.type === "alert") addAlert(data);
};

// EventSource cannot send a key in a header, and a key in an address would end up in logs: hence fetch.
const listen = async () => {
  const answer = await ask("/v1/stream", { headers: lastId ? { "Last-Event-ID": lastId } : {} });
  if (answer.status === 401 || answer.status === 403) return wantKey();
  if (!answer.ok) throw new Error(`${answer.status}`);
  at("keyform").hidden = true;
  at("state").textContent = "live";
  failures = 0;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the stream ended");
    buffer += value;
    const parts = buffer.split(/\r?\n\r?\n/);
    buffer = parts.pop();
    parts.forEach(handle);
  }
};

const begin = async () => {
  try {
    await listen();
  } catch (error) {
    failures += 1;
    at("state").textContent = `not connected (${error.message}); trying again`;
    setTimeout(begin, Math.min(30000, 1000 * 2 ** Math.min(failures, 5)));
  }
};

const past = async () => {
  const answer = await ask("/v1/alerts?limit=20");
  if (answer.ok) (await answer.json()).items.reverse().forEach(addAlert);
};

at("keyform").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  sessionStorage.setItem("eo-key", key);
  begin();
  past();
  nodes();
});
at("filter").addEventListener("input", nodes);
begin();
past();
nodes();
setInterval(nodes, 2000);
