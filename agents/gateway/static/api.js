// Renders /openapi.json and lets a reader try a route. No library, nothing from another host, no text becomes markup.
"use strict";

const element = (tag, attributes, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  for (const child of children) made.append(child);
  return made;
};

// Text between backticks is code; no other mark-up is known, and none is made of text.
const prose = (text) => text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));

const firstSentence = (text) => (text.match(/^.*?[.?!](?=\s|$)/s) || [text])[0].replaceAll("`", "");

const resolved = (api, schema) => {
  let found = schema || {};
  for (let depth = 0; found.$ref && depth < 8; depth += 1) {
    found = api.components.schemas[found.$ref.split("/").pop()] || {};
  }
  return found;
};

const named = (api, schema) => {
  if (!schema) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((one) => named(api, one)).join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${named(api, schema.items)}`;
  return schema.type || "object";
};

const bounds = (schema) => {
  const words = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", maxLength: "at most (characters)" };
  return Object.entries(words).filter(([name]) => schema[name] !== undefined).map(([name, word]) => `${word} ${schema[name]}`).join(", ");
};

const fields = (api, schema) => {
  const shape = resolved(api, schema);
  if (!shape.properties) return element("p", {}, named(api, schema));
  const body = element("tbody");
  for (const [name, field] of Object.entries(shape.properties)) {
    const told = [field.description || "", bounds(field), field.default !== undefined ? `default ${JSON.stringify(field.default)}` : ""];
    const mark = (shape.required || []).includes(name) ? " (required)" : "";
    body.append(element("tr", {}, element("th", { scope: "row" }, name + mark), element("td", {}, named(api, field)),
      element("td", {}, told.filter(Boolean).join("; "))));
  }
  const head = element("tr", {}, ...["field", "type", "meaning"].map((word) => element("th", { scope: "col" }, word)));
  return element("table", {}, element("thead", {}, head), body);
};

const example = (api, schema, depth = 0) => {
  const shape = resolved(api, schema);
  if (shape.default !== undefined) return shape.default;
  if (shape.anyOf) return null;
  if (shape.enum) return shape.enum[0];
  if (shape.type === "number" || shape.type === "integer") return shape.minimum || 24;
  if (shape.type === "boolean") return false;
  if (shape.type === "array") return [];
  if (shape.properties && depth < 4) {
    return Object.fromEntries(Object.entries(shape.properties).map(([name, field]) => [name, example(api, field, depth + 1)]));
  }
  return shape.type === "string" ? (shape.title === "Metric" ? "power_w" : "") : null;
};

const tryIt = (api, path, method, operation) => {
  const inputs = [];
  const form = element("form", {});
  for (const parameter of operation.parameters || []) {
    const id = `${method}${path}${parameter.name}`.replace(/[^a-z0-9]/gi, "-");
    const input = element("input", { id, type: "text", autocomplete: "off" });
    if (parameter.schema && parameter.schema.default !== undefined) input.value = parameter.schema.default;
    inputs.push([parameter, input]);
    form.append(element("label", { for: id }, `${parameter.name} (${parameter.in}) ${parameter.description || ""}`), input);
  }
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  let body = null;
  if (content) {
    const id = `${method}${path}-body`.replace(/[^a-z0-9]/gi, "-");
    body = element("textarea", { id, rows: "8", spellcheck: "false" });
    body.value = JSON.stringify(example(api, content.schema), null, 2);
    form.append(element("label", { for: id }, "body (JSON)"), body);
  }
  const output = element("pre", { "aria-live": "polite", tabindex: "0" }, "");
  form.append(element("button", { type: "submit" }, `Send ${method.toUpperCase()}`), output);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    output.textContent = "…";
    try {
      output.textContent = await send(path, method, inputs, body);
    } catch (error) {
      output.textContent = String(error);
    }
  });
  return form;
};

const send = async (path, method, inputs, body) => {
  const headers = {};
  const key = document.getElementById("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  let url = path;
  const query = new URLSearchParams();
  for (const [parameter, input] of inputs) {
    const value = input.value.trim();
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value && parameter.in === "query") query.set(parameter.name, value);
    else if (value && parameter.in === "header") headers[parameter.name] = value;
  }
  if (body) headers["Content-Type"] = "application/json";
  const whole = query.size ? `${url}?${query}` : url;
  const answer = await fetch(whole, { method: method.toUpperCase(), headers, body: body ? body.value : undefined });
  const text = await answer.text();
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* text is shown as it is */ }
  return `${answer.status} ${answer.statusText}\n${shown.slice(0, 20000)}`;
};

const route = (api, path, method, operation) => {
  const role = operation["x-role"];
  const box = element("details", { id: `${method}-${path}` },
    element("summary", {}, element("code", {}, `${method.toUpperCase()} ${path}`), ` ${role === "public" ? "no key" : `role ${role}`} `, element("span", { class: "soft" }, firstSentence(operation.description || ""))));
  box.append(element("p", {}, ...prose(operation.description || "")));
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  if (content) box.append(element("h3", {}, "Body"), fields(api, content.schema));
  const good = operation.responses["200"];
  const shape = good && good.content && Object.values(good.content)[0].schema;
  if (shape) box.append(element("h3", {}, "Answer"), fields(api, shape));
  const errors = Object.entries(operation.responses).filter(([status]) => status !== "200");
  box.append(element("h3", {}, "Errors"), element("ul", {}, ...errors.map(([status, one]) => element("li", {}, `${status}: ${one.description}`))));
  if (path !== "/v1/stream") box.append(element("h3", {}, "Try it"), tryIt(api, path, method, operation));
  return box;
};

const render = async () => {
  const target = document.getElementById("routes");
  try {
    const api = await (await fetch("/openapi.json")).json();
    document.getElementById("about").replaceChildren(...prose(api.info.description));
    target.replaceChildren();
    for (const [path, operations] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(operations)) target.append(route(api, path, method, operation));
    }
  } catch (error) {
    target.replaceChildren(element("p", { role: "alert" }, `openapi.json could not be read: ${error}`));
  }
  target.removeAttribute("aria-busy");
};

document.getElementById("keyform").addEventListener("submit", (event) => event.preventDefault());
render();
