// Fills the status page from /status/events. Text goes in as text nodes only: a name that holds markup stays text.
"use strict";

const SHOWN_S = 120;
const GOOD = new Set(["connected", "running"]);
const BAD = new Set(["failed", "refused", "journal away"]);
const WARN = new Set(["connecting", "waiting", "starting", "stopping"]);
const rates = []; // {at, rate}, the last two minutes
let latest = null;

const byId = (id) => document.getElementById(id);
const number = (value) => Math.round(value).toLocaleString("en-GB");
const sum = (items, of) => items.reduce((total, item) => total + of(item), 0);
const losses = (counts) => sum(Object.values(counts), (count) => count);

function kind(state) {
  if (GOOD.has(state)) return "good";
  if (BAD.has(state)) return "bad";
  return WARN.has(state) ? "warn" : state === "stopped" ? "idle" : "bad";
}

function bytes(value) {
  if (value < 1000) return `${value} B`;
  for (const [unit, size] of [["kB", 1e3], ["MB", 1e6], ["GB", 1e9]]) {
    if (value < size * 1000) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${(value / 1e12).toFixed(1)} TB`;
}

function age(at, now) {
  if (at === null) return "never";
  const seconds = Math.max(0, now - at);
  if (seconds < 1) return "now";
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit} ago`;
  }
  return `${Math.floor(seconds)} s ago`;
}

// An element with text; children are elements or strings.
function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function set(node, text, className) {
  if (node.textContent !== text) node.textContent = text;
  if (className !== undefined && node.className !== className) node.className = className;
}

// Makes parent's children those of `items`, in order; what stays is kept, so that nothing jumps or closes.
function reconcile(parent, items, make, fill) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    let child = known.get(item.id);
    known.delete(item.id);
    if (child === undefined) {
      child = make();
      child.dataset.key = item.id;
    }
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    fill(child, item);
  });
  for (const child of known.values()) child.remove();
}

const COLUMNS = [
  ["connection", ""], ["state", ""], ["since", "n"], ["readings/s", "n"], ["last reading", "n"], ["last heard", "n"],
  ["tags", "n"], ["losses", "n"],
];

function makeTenant() {
  const head = element("tr", "", ...COLUMNS.map(([label, className]) => element("th", className, label)));
  const table = element("table", "", element("thead", "", head), element("tbody", ""));
  return element(
    "section", "card",
    element("div", "bar", element("h2", ""), element("span", "state"), element("small", "soft push")),
    element("div", "figures"), element("div", "error"), table, element("div", "soft more"),
  );
}

function fillTenant(section, tenant) {
  section.dataset.tenant = tenant.id;
  set(section.querySelector("h2"), tenant.name);
  set(section.querySelector(".bar .state"), tenant.state, `state ${kind(tenant.state)}`);
  set(section.querySelector(".bar small"), tenant.id);
  const lost = losses(tenant.losses);
  const figures = [
    [number(tenant.readings_per_second), "readings/s"], [number(tenant.committed), "committed"],
    [age(tenant.last_commit_at, latest.at), "last commit"],
    [number(tenant.in_journal), `in the journal (${bytes(tenant.journal_bytes)})`],
    [number(tenant.quarantined), "quarantined"], [number(lost), "losses"],
  ];
  if (tenant.readings_lost) figures.push([number(tenant.readings_lost), "accepted readings lost"]);
  if (tenant.journal_full) figures.push(["journal full", "devices are held back"]);
  reconcile(
    section.querySelector(".figures"), figures.map(([value, label]) => ({ id: label.split(" (")[0], value, label })),
    () => element("span", "", element("b", ""), " ", element("span", "")),
    (node, figure) => { set(node.firstChild, figure.value); set(node.lastChild, figure.label); },
  );
  set(section.querySelector(":scope > .error"), tenant.last_error ?? "");
  section.querySelector("table").hidden = tenant.connections.length === 0;
  reconcile(section.querySelector("tbody"), tenant.connections, makeConnection, fillConnection);
  const all = sum(Object.values(tenant.connections_by_state), (count) => count);
  const left = all - tenant.connections.length;
  set(section.querySelector(".more"), left ? `and ${number(left)} more connections: see JSON` : all ? "" : "no connections");
}

function makeConnection() {
  const row = element("tr", "");
  COLUMNS.forEach(([label, className], index) => {
    const cell = element("td", className);
    if (index > 1) cell.dataset.label = label;
    row.append(cell);
  });
  row.cells[0].append(element("span", "name"), element("small", "endpoint"), element("div", "error"));
  row.cells[1].append(element("span", "state"));
  return row;
}

function fillConnection(row, connection) {
  const [name, state, since, rate, reading, heard, tags, lost] = row.cells;
  row.dataset.connection = connection.id;
  set(name.querySelector(".name"), connection.name || connection.id);
  set(name.querySelector(".endpoint"), connection.endpoint);
  const trouble = connection.state === "connected" ? null : connection.last_error;
  set(name.querySelector(".error"), trouble ?? "");
  set(state.firstChild, connection.state, `state ${kind(connection.state)}`);
  set(since, age(connection.since, latest.at).replace(" ago", ""));
  set(rate, connection.readings_per_second.toLocaleString("en-GB"));
  set(reading, age(connection.last_reading_at, latest.at));
  set(heard, age(connection.last_heard_at, latest.at));
  fillTags(tags, connection);
  const times = losses(connection.losses);
  set(lost, times ? Object.entries(connection.losses).map(([why, count]) => `${count} ${why}`).join(", ") : "0",
    times ? "n bad" : "n");
}

function fillTags(cell, connection) {
  if (connection.tags_refused === 0) {
    set(cell, number(connection.tags_monitored));
    return;
  }
  let details = cell.querySelector("details");
  if (details === null) {
    details = element("details", "", element("summary", "warn"), element("ul", ""));
    cell.replaceChildren(details);
  }
  set(details.firstChild, `${number(connection.tags_monitored)}, ${number(connection.tags_refused)} refused`);
  const shown = connection.refused.map((tag) => ({ id: tag.node_id, text: `${tag.node_id} ${tag.status}` }));
  const left = connection.tags_refused - shown.length;
  if (left > 0) shown.push({ id: "", text: `and ${number(left)} more` });
  reconcile(details.lastChild, shown, () => element("li", ""), (item, tag) => set(item, tag.text));
}

function fillTotals(tenants) {
  const connections = (tenant) => sum(Object.values(tenant.connections_by_state), (count) => count);
  const connected = sum(tenants, (tenant) => tenant.connections_by_state.connected ?? 0);
  set(byId("total-tenants"), `${tenants.filter((tenant) => tenant.state === "running").length}/${tenants.length}`);
  set(byId("total-connections"), `${number(connected)}/${number(sum(tenants, connections))}`);
  set(byId("total-rate"), number(sum(tenants, (tenant) => tenant.readings_per_second)));
  set(byId("total-journal"), number(sum(tenants, (tenant) => tenant.in_journal)));
  set(byId("total-losses"), number(sum(tenants, (tenant) => losses(tenant.losses))));
  set(byId("total-refused"), number(sum(tenants, (tenant) => tenant.tags_refused)));
}

function draw() {
  const now = latest.at;
  while (rates.length && rates[0].at < now - SHOWN_S) rates.shift();
  const top = Math.max(1, ...rates.map((point) => point.rate));
  const points = rates.map(({ at, rate }) => `${(SHOWN_S - (now - at)).toFixed(2)} ${(39 - 37 * rate / top).toFixed(2)}`);
  const line = points.length > 1 ? `M${points.join("L")}` : "";
  byId("line").setAttribute("d", line);
  byId("area").setAttribute("d", line ? `${line}V40H${(SHOWN_S - (now - rates[0].at)).toFixed(2)}Z` : "");
  set(byId("peak"), rates.length ? `peak ${number(Math.max(...rates.map((point) => point.rate)))}/s` : "");
}

function show(document_) {
  latest = document_;
  set(byId("version"), latest.version);
  rates.push({ at: latest.at, rate: sum(latest.tenants, (tenant) => tenant.readings_per_second) });
  fillTotals(latest.tenants);
  reconcile(byId("tenants"), latest.tenants, makeTenant, fillTenant);
  draw();
}

function follow() {
  const events = new EventSource("status/events");
  events.onopen = () => set(byId("link"), "live", "state good push");
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onerror = () => {
    set(byId("link"), "no answer, trying again", "state bad push");
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, 5000); // refused: a browser gives up by itself
  };
}

follow();
