"use strict";
// Every text from the server goes into the page as textContent, never as markup.

const KEPT = 1000;
const SECONDS = 600;
const SPACES = "http://www.w3.org/2000/svg";
const streams = []; // { name, labels, decision, samples, records, counts, is_up, is_healthy, ... }
let shown = 0;
let run = "";
let view = "camera";
let source = null;

const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS(SPACES, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// ---------------------------------------------------------------- what the server says

async function begin() {
  source?.close();
  try {
    const answer = await fetch("/api/state");
    if (answer.status === 401) return location.reload();
    take(await answer.json());
  } catch {
    showStatus("disconnected", "bad");
    setTimeout(begin, 2000);
    return;
  }
  if (!streams.length) {
    showStatus("starting", "warn");
    setTimeout(begin, 1000);
    return;
  }
  listen();
  showPicture();
}

function take(state) {
  const isSameRun = state.run === run;
  run = state.run;
  const before = streams.splice(0);
  for (const stream of state.streams) {
    const records = isSameRun ? before[stream.stream]?.records ?? [] : [];
    streams.push({ ...stream, records });
  }
  shown = Math.min(shown, Math.max(0, streams.length - 1));
  showTabs();
  showAll();
}

function listen() {
  source?.close(); // of a call that ran beside this one
  source = new EventSource("/events");
  let isAgain = false;
  source.onopen = () => {
    if (isAgain) showPicture(); // its connection broke too, and no browser tells so
    isAgain = true;
    showNow();
  };
  source.onerror = () => {
    showStatus("disconnected", "bad");
    // the browser connects again by itself, unless it was refused
    if (source.readyState === EventSource.CLOSED) setTimeout(begin, 2000);
  };
  source.addEventListener("record", (event) => {
    const record = JSON.parse(event.data);
    const [itsRun, number] = event.lastEventId.split("-");
    if (itsRun !== run) return begin(); // the program was started anew
    const { records } = streams[record.stream];
    if (records.length && records.at(-1).number >= Number(number)) return;
    records.push({ ...record, number: Number(number) });
    if (records.length > KEPT) records.shift();
    if (record.stream === shown) soon(showEvents);
  });
  source.addEventListener("decision", (event) => {
    const decision = JSON.parse(event.data);
    streams[decision.stream].decision = decision;
    if (decision.stream === shown) soon(showNow);
  });
  source.addEventListener("second", (event) => {
    const { sample, ...facts } = JSON.parse(event.data);
    const stream = streams[facts.stream];
    Object.assign(stream, facts);
    if (!stream.samples.length || stream.samples.at(-1).number < sample.number) stream.samples.push(sample);
    if (stream.samples.length > SECONDS) stream.samples.shift();
    if (facts.stream === shown) soon(showNow, showCharts, showTimeline);
  });
}

const waiting = new Set();
function soon(...jobs) { // at most once a picture of the screen
  if (!waiting.size) requestAnimationFrame(() => { const all = [...waiting]; waiting.clear(); all.forEach((job) => job()); });
  jobs.forEach((job) => waiting.add(job));
}

// ---------------------------------------------------------------- what the page shows

function showAll() { showNow(); showEvents(); showCharts(); }

function shortNames(names) { // without the folder or host that they all share
  const [first, ...others] = names;
  let shared = others.length ? first.length : 0;
  for (const name of others) while (!name.startsWith(first.slice(0, shared))) shared--;
  const cut = first ? first.slice(0, shared).lastIndexOf("/") + 1 : 0;
  return names.map((name) => name.slice(cut) || name);
}

function showTabs() {
  const names = shortNames(streams.map((stream) => stream.name));
  byId("tabs").replaceChildren(...streams.map((stream, number) => {
    const tab = element("button", names[number]);
    tab.title = stream.name;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(number === shown));
    tab.onclick = () => { shown = number; showTabs(); showAll(); showPicture(); };
    return tab;
  }));
}

function showStatus(text, mood) {
  byId("status").textContent = text;
  byId("status").className = `pill ${mood}`;
}

function showPicture() {
  const picture = byId("picture");
  const wanted = view && !document.hidden && streams.length;
  picture.hidden = true;
  byId("no-picture").hidden = false;
  byId("no-picture").textContent = view ? "no picture yet" : "picture is off";
  picture.onload = () => { picture.hidden = false; byId("no-picture").hidden = true; };
  picture.onerror = () => { if (wanted) setTimeout(showPicture, 3000); };
  if (wanted) picture.src = `/stream.mjpg?stream=${shown}&view=${view}&at=${Date.now()}`;
  else picture.removeAttribute("src");
}

function showNow() {
  const stream = streams[shown];
  if (!stream) return;
  const { decision } = stream;
  if (!stream.is_healthy) showStatus("stalled", "bad");
  else if (!stream.is_up) showStatus(stream.frame_age_s === null ? "waiting for the source" : `no frame for ${Math.round(stream.frame_age_s)} s`, "bad");
  else if (decision?.warming) showStatus("warming up", "warn");
  else showStatus("live", "good");
  byId("now-label").textContent = decision ? (decision.action ?? "none of these") : "—";
  byId("now-about").textContent = !decision ? "no decision yet" : decision.warming
    ? "warming up: do not rely on it yet" : decision.action === null ? `nearest: ${decision.label}` : percent(decision.prob);
  byId("bars").replaceChildren(...(decision?.top ?? []).map(([label, prob]) => {
    const bar = element("li");
    const fill = element("span", "", "fill");
    fill.style.width = `${100 * prob}%`;
    bar.append(fill, element("span", label), element("span", percent(prob)));
    return bar;
  }));
  const { captured, used, dropped, missed, reconnects } = stream.counts;
  const facts = { Model: stream.bundle, Latency: decision ? `${decision.latency_ms.toFixed(1)} ms` : "—",
    "Frames, steps": `${captured}, ${used}`, "Dropped, missed": `${dropped}, ${missed}`, Reconnects: reconnects };
  byId("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

// Stream time may start anew with a reconnect: only the newest stretch is drawn on one axis.
function stretch(records) {
  let first = 0;
  let last = -Infinity;
  records.forEach((record, at) => {
    if (record.stream_time_s === null) return;
    if (record.stream_time_s < last - 1) first = at;
    last = record.stream_time_s;
  });
  return records.slice(first);
}

function showTimeline() {
  const stream = streams[shown];
  const span = Number(byId("span").value);
  const records = stretch(stream.records);
  const end = Math.max(stream.decision?.stream_time_s ?? 0, records.at(-1)?.stream_time_s ?? 0);
  const lanes = new Map();
  const add = (record, until, kind) => {
    if (until < end - span) return;
    if (!lanes.has(record.label)) lanes.set(record.label, []);
    lanes.get(record.label).push({ from: Math.max(record.start_s, end - span), until, kind, record });
  };
  let open = null;
  for (const record of records) {
    if (record.type === "action_start") open = record;
    if (record.type === "action") { add(record, record.end_s, "action"); open = null; }
  }
  if (open) add(open, end, "ongoing");
  const width = Math.max(260, byId("timeline").clientWidth);
  const left = Math.min(150, width / 3);
  const line = 22;
  const height = Math.max(1, lanes.size) * line + 22;
  const x = (time) => left + (width - left) * (1 - (end - time) / span);
  const picture = drawn("svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Actions over time" });
  const parts = { 60: 4, 300: 5, 1800: 6 }[span];
  for (let part = 0; part <= parts; part += 1) {
    const at = end - span * (1 - part / parts);
    picture.append(drawn("line", { class: "grid", x1: x(at), x2: x(at), y1: 0, y2: height - 18 }));
    if (width < 520 && part % 2 && part < parts) continue; // no room for every text
    const text = part === parts ? "now" : `−${ago(end - at)}`;
    picture.append(drawn("text", { x: x(at), y: height - 3, "text-anchor": part === parts ? "end" : "middle" }, text));
  }
  for (const record of records) {
    if (record.type === "reset" && record.stream_time_s >= end - span) {
      picture.append(drawn("line", { class: "mark", x1: x(record.stream_time_s), x2: x(record.stream_time_s), y1: 0, y2: height - 18 }));
    }
  }
  [...lanes].sort(([a], [b]) => a.localeCompare(b)).forEach(([label, bars], row) => {
    const room = Math.floor(left / 7.5);
    const text = label.length > room ? `${label.slice(0, room - 1)}…` : label;
    picture.append(drawn("text", { x: 0, y: row * line + 15 }, text));
    for (const { from, until, kind, record } of bars) {
      const bar = drawn("rect", { class: kind, x: x(from), y: row * line + 4, rx: 3, height: line - 8, width: Math.max(3, x(until) - x(from)) });
      bar.append(drawn("title", {}, `${label}, ${percent(record.peak_prob)}, ${(until - record.start_s).toFixed(1)} s`));
      picture.append(bar);
    }
  });
  if (!lanes.size) picture.append(drawn("text", { x: 0, y: 15 }, "no action"));
  byId("timeline").replaceChildren(picture);
}

const ago = (seconds) => (seconds >= 59.5 ? `${+(seconds / 60).toFixed(1)} min` : `${Math.round(seconds)} s`);

function showCharts() {
  const { samples } = streams[shown];
  chart(byId("latency"), samples, { first: ["p50_ms", "p50"], second: ["p99_ms", "p99"] }, "ms");
  chart(byId("rate"), samples, { first: ["fps", "frames a second"], second: ["dropped", "dropped"], third: ["missed", "missed ticks"] }, "");
}

function chart(place, samples, lines, unit) {
  const width = Math.max(260, place.clientWidth);
  const [height, left, foot] = [150, 44, 18];
  const values = samples.flatMap((sample) => Object.values(lines).map(([key]) => sample[key] ?? 0));
  const top = nice(values.reduce((most, value) => Math.max(most, value), 1));
  const last = samples.at(-1)?.number ?? 0;
  const span = Math.min(SECONDS, Math.max(60, samples.length));
  const x = (number) => left + (width - left) * (1 - (last - number) / span);
  const y = (value) => 6 + (height - foot - 6) * (1 - value / top);
  const picture = drawn("svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const share of [0, 0.5, 1]) {
    picture.append(drawn("line", { class: "grid", x1: left, x2: width, y1: y(share * top), y2: y(share * top) }));
    picture.append(drawn("text", { x: left - 6, y: y(share * top) + 4, "text-anchor": "end" }, `${+(share * top).toFixed(2)}${share === 1 && unit ? ` ${unit}` : ""}`));
  }
  picture.append(drawn("text", { x: left, y: height - 2 }, `−${ago(span)}`), drawn("text", { x: width, y: height - 2, "text-anchor": "end" }, "now"));
  const legend = element("div", undefined, "legend");
  for (const [name, [key, text]] of Object.entries(lines)) {
    let path = "";
    let isDown = false;
    for (const sample of samples) { // a second without a decision leaves a gap
      const value = sample[key];
      if (value !== null) path += `${isDown ? "L" : "M"}${x(sample.number).toFixed(1)} ${y(value).toFixed(1)}`;
      isDown = value !== null;
    }
    picture.append(drawn("path", { class: name, d: path }));
    const key_ = drawn("svg", { viewBox: "0 0 16 8" });
    key_.append(drawn("path", { class: name, d: "M0 4H16" }));
    const newest = samples.at(-1)?.[key];
    const item = element("span");
    item.append(key_, newest == null ? `${text} —` : `${text} ${+newest.toFixed(1)} ${unit}`);
    legend.append(item);
  }
  place.replaceChildren(picture, legend);
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((limit) => limit >= value);
}

const isAction = (record) => record.type === "action" || record.type === "action_start";

// An action that goes on has one line; its end takes the line over.
function listed(records) {
  const found = [];
  for (const record of records) {
    if (record.type === "action" && found.at(-1)?.type === "action_start" && found.at(-1).label === record.label) found.pop();
    found.push(record);
  }
  return found;
}

function words(record) {
  const skipped = new Set(["type", "source", "stream", "stream_time_s", "monotonic_ns", "utc", "number", "policy"]);
  const facts = Object.entries(record).filter(([key]) => !skipped.has(key)).map(([key, value]) => `${key} ${value}`);
  return facts.length ? `${record.type}: ${facts.join(", ")}` : record.type;
}

function showEvents() {
  const stream = streams[shown];
  const [search, kind, least] = [byId("search").value.toLowerCase(), byId("kind").value, Number(byId("least").value) / 100];
  const rows = [];
  const actions = listed(stream.records.filter(isAction));
  const others = stream.records.filter((record) => !isAction(record));
  const all = { actions, others, all: [...actions, ...others].sort((a, b) => a.number - b.number) }[kind];
  for (const record of all) {
    const isOne = isAction(record);
    const text = isOne ? record.label : words(record);
    if (!text.toLowerCase().includes(search) || (isOne && record.peak_prob < least)) continue;
    const row = element("tr");
    const length = record.type === "action" ? `${(record.end_s - record.start_s).toFixed(1)} s` : isOne ? "goes on" : "";
    const time = element("td", new Date(record.utc).toLocaleTimeString([], { hour12: false }));
    time.title = record.utc;
    row.append(time, element("td", text), element("td", isOne ? percent(record.peak_prob) : ""), element("td", length));
    rows.push(row);
  }
  byId("count").textContent = `${rows.length} of ${all.length}`;
  byId("events").replaceChildren(...rows.reverse());
  showTimeline();
}

// ---------------------------------------------------------------- what people do

for (const button of byId("views").children) {
  button.onclick = () => {
    view = button.dataset.view;
    for (const each of byId("views").children) each.setAttribute("aria-pressed", String(each === button));
    showPicture();
  };
}
byId("filters").onsubmit = (event) => event.preventDefault();
byId("filters").oninput = () => streams.length && showEvents();
byId("span").onchange = () => streams.length && showTimeline();
window.onresize = () => streams.length && soon(showTimeline, showCharts);
// A hidden page reads nothing: pictures are then not even encoded, and a browser has few connections.
document.onvisibilitychange = () => {
  if (document.hidden) { source?.close(); showPicture(); } else begin();
};
begin();
