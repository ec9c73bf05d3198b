// The live console: figures by server-sent events, nodes by polling. Unknown is shown as "unknown", never as 0.
"use strict";

const at = (id) => document.getElementById(id);
const figure = (value, unit, digits = 0) => (value === null || value === undefined ? "unknown"
  : `${value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${unit}`);
const signed = (value) => `${value.toLocaleString("en", { maximumFractionDigits: 1, minimumFractionDigits: 1, signDisplay: "exceptZero" })} %`;
let key = sessionStorage.getItem("eo-key") || "";
let lastId = "";
let failures = 0;

const ask = (path, more = {}) => {
  const headers = { ...(more.headers || {}) };
  if (key) headers.Authorization = `Bearer ${key}`;
  return fetch(path, { ...more, headers });
};

// Silent nodes give no number, but what they were stays known: the label goes by both.
const qualities = { now: "", nodes: [] };
const label = (more) => {
  Object.assign(qualities, more);
  const all = [qualities.now, ...qualities.nodes].filter(Boolean);
  const simulated = all.filter((one) => one === "simulated").length;
  const mixed = all.includes("mixed") || simulated < all.length;
  at("label").hidden = simulated === 0 && !all.includes("mixed");
  at("label").textContent = mixed ? "PARTLY SIMULATED" : "SIMULATED";
};

const tick = (now) => {
  const ours = now.groups.controlled;
  const base = now.groups["hold-out"];
  at("controlled").textContent = figure(ours.power_w_per_gpu, "W");
  at("controlled-n").textContent = ours.gpus;
  at("holdout").textContent = figure(base.power_w_per_gpu, "W");
  at("holdout-n").textContent = base.gpus;
  const known = ours.power_w_per_gpu !== null && base.power_w_per_gpu;
  at("change").textContent = known ? signed((ours.power_w_per_gpu / base.power_w_per_gpu - 1) * 100) : "unknown";
  at("total").textContent = figure(now.power_w === null ? null : now.power_w / 1000, "kW", 1);
  at("unknown").textContent = `${now.gpus} GPUs, ${now.gpus_power_unknown} of unknown power`;
  at("tbt").textContent = figure(ours.tbt_p99_ms, "ms", 1);
  at("tbt-holdout").textContent = figure(base.tbt_p99_ms, "ms", 1);
  at("capped").textContent = now.capped;
  label({ now: now.gpus_power_unknown < now.gpus ? now.quality : "" });
};

// The newest word on each alert; a fault that hits many nodes is one line.
const MOST_ALERTS = 2000;
const MOST_LINES = 20;
const alerts = new Map();

const alertLine = (same) => {
  const [newest] = same;
  const line = document.createElement("p");
  line.className = newest.state === "resolved" ? "good" : newest.severity === "info" ? "" : "bad";
  const when = new Date(newest.ts_ns / 1e6).toLocaleTimeString();
  const names = same.map((one) => one.node).filter(Boolean);
  const shown = names.slice(0, 3).join(", ");
  const where = names.length > 1 ? ` on ${names.length} nodes (${shown}${names.length > 3 ? ", …" : ""}), newest` : names.length ? ` on ${shown}` : "";
  line.textContent = `${when} ${newest.state} ${newest.severity} ${newest.rule}${where}: ${newest.summary}`;
  return line;
};

const showAlerts = () => {
  const groups = new Map();
  for (const one of [...alerts.values()].sort((a, b) => b.ts_ns - a.ts_ns)) {
    const name = `${one.state}|${one.severity}|${one.rule}`;
    groups.set(name, [...(groups.get(name) || []), one]);
  }
  const firing = [...groups.values()].sort((a, b) => (a[0].state === "resolved") - (b[0].state === "resolved"));
  at("alerts").replaceChildren(...firing.slice(0, MOST_LINES).map(alertLine));
};

const addAlerts = (found) => {
  for (const one of found) {
    const name = one.alert_id || `${one.rule}|${one.node || ""}`;
    const before = alerts.get(name);
    if (before && before.ts_ns > one.ts_ns) continue;
    alerts.delete(name);
    alerts.set(name, one);
    if (alerts.size > MOST_ALERTS) alerts.delete(alerts.keys().next().value);
  }
  if (alerts.size) showAlerts();
};

const cell = (text, number = false) => {
  const made = document.createElement("td");
  made.textContent = text;
  if (number) made.className = "n";
  return made;
};

const why = (text) => {
  const made = cell(text);
  made.className = "why";
  return made;
};

const nodeRow = (node) => {
  const row = document.createElement("tr");
  if (node.stale) row.className = "stale";
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = node.node;
  row.append(name, cell(node.gpus, true), cell(figure(node.power_w, "W"), true), cell(node.capped, true), cell(node.mode),
    cell(node.lease_left_s < 0 ? "over" : figure(node.lease_left_s, "s"), true), cell(figure(node.age_s, "s", 1), true),
    cell(node.stale ? `${node.quality}, silent` : node.quality), why(node.reason));
  return row;
};

const nodes = async () => {
  try {
    const answer = await ask("/v1/nodes?limit=2000");
    if (answer.status === 401 || answer.status === 403) return wantKey();
    if (answer.ok) {
      const wanted = at("filter").value.trim();
      const { items } = await answer.json();
      label({ nodes: items.map((node) => node.quality) });
      const rows = items.filter((node) => node.node.includes(wanted));
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
  else if (event.type === "alert") addAlerts([data]);
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
  const answer = await ask("/v1/alerts?limit=500");
  if (answer.ok) addAlerts((await answer.json()).items.reverse());
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
