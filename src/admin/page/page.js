// The operator's page: asks the port it came from for two documents a second, and shows them. Everything that came from a peer is
// set as text, never as markup.

const SECOND = 1000;
const TUNNELS_SHOWN = 200;
const SECONDS_SHOWN = 300;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

const view = { sort: "rate", order: "desc", paused: false, open: new Set(), writable: false };

function make(tag, text, ...classes) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  element.classList.add(...classes);
  return element;
}

function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (n < 1000 || unit === "TB") return `${unit === "B" ? Math.round(n) : n.toFixed(n < 10 ? 1 : 0)} ${unit}`;
    n /= 1000;
  }
}
const rate = (n) => `${bytes(n)}/s`;
const count = (n) => (n < 10 && n % 1 ? n.toFixed(1) : Math.round(n).toLocaleString("en"));

function age(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function say(text) {
  $("notice").textContent = text;
}

async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(10 * SECOND) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function showState(state, kind) {
  $("state").textContent = state;
  $("state").className = `pill ${kind}`;
}

function showOverview(now) {
  showState(now.state, now.state === "ready" ? "ready" : "bad");
  $("build").textContent = `${now.version} · rules of generation ${now.generation}`;
  view.writable = now.changes !== "none";
  $("access").hidden = now.changes !== "token";
  const last = now.history.at(-1) ?? { received: 0, sent: 0, flows: 0, refused: 0 };
  $("f-tunnels").textContent = count(now.tunnels);
  $("f-down").textContent = rate(last.sent);
  $("f-up").textContent = rate(last.received);
  $("f-flows").textContent = count(last.flows);
  $("f-refused").textContent = count(last.refused);
  draw(now.history);
  showDestinations(now.destinations);
  showRefusals(now.refusals);
}

// A top of the scale that does not jump with every second: 1, 2 or 5 times a power of ten.
function scale(highest) {
  const power = 10 ** Math.floor(Math.log10(Math.max(highest, 1000)));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= highest);
}

function draw(history) {
  const [width, height] = [900, 180];
  const highest = Math.max(0, ...history.map((second) => Math.max(second.sent, second.received)));
  const top = scale(highest);
  const x = (index) => width - (history.length - 1 - index) * (width / (SECONDS_SHOWN - 1));
  const y = (value) => height - (value / top) * (height - 6);
  const line = (of) => history.map((second, index) => `${index ? "L" : "M"}${x(index).toFixed(1)},${y(of(second)).toFixed(1)}`).join("");
  const down = line((second) => second.sent);
  $("line-down").setAttribute("d", down);
  $("area-down").setAttribute("d", history.length > 1 ? `${down}L${width},${height}L${x(0).toFixed(1)},${height}Z` : "");
  $("line-up").setAttribute("d", line((second) => second.received));
  if (!$("grid").childElementCount) {
    for (const part of [0, 0.5]) {
      const rule = document.createElementNS(SVG, "line");
      const at = 6 + part * (height - 6);
      for (const [name, value] of [["x1", 0], ["x2", width], ["y1", at], ["y2", at]]) rule.setAttribute(name, value);
      $("grid").append(rule);
    }
  }
  $("axis-top").textContent = rate(top);
  $("axis-half").textContent = rate(top / 2);
  const last = history.at(-1);
  $("chart-says").textContent = last ? `now ${rate(last.sent)} and ${rate(last.received)}, at most ${rate(highest)} of each` : "";
}

function showDestinations(destinations) {
  const most = Math.max(1, ...destinations.map((one) => one.bytes));
  $("destinations").tBodies[0].replaceChildren(...destinations.slice(0, 12).map((one) => {
    const row = make("tr");
    const name = make("td", one.target, "name");
    const share = make("div", null, "share");
    share.style.width = `${Math.max(1, (100 * one.bytes) / most)}%`;
    name.append(share);
    row.append(name, make("td", count(one.flows), "number"), make("td", bytes(one.bytes), "number"));
    return row;
  }));
  empty("h-destinations", destinations.length);
}

function empty(heading, length) {
  document.querySelector(`section[aria-labelledby="${heading}"] > .empty`).hidden = length > 0;
}

function showRefusals(refusals) {
  const list = $("refusals");
  const shown = JSON.stringify(refusals.map((one) => [one.target, one.reason, one.times, one.last, one.allowed_now]));
  if (list.dataset.shown === shown) return; // what somebody reads or copies from stays where it is
  const focus = list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.key : undefined;
  list.dataset.shown = shown;
  list.replaceChildren(...refusals.map((one) => refusal(one)));
  if (focus) list.querySelector(`li[data-key="${CSS.escape(focus)}"] summary`)?.focus();
  empty("h-refusals", refusals.length);
}

function refusal(one) {
  const target = one.target ?? `listener ${one.listener}`;
  const key = `${one.asked_by} ${target} ${one.reason}`;
  const item = make("li");
  item.dataset.key = key;
  const details = make("details");
  details.open = view.open.has(key);
  details.addEventListener("toggle", () => (details.open ? view.open.add(key) : view.open.delete(key)));
  const summary = make("summary");
  summary.append(make("span", `${count(one.times)}×`, "times"), make("span", target, "name", "grow"), make("span", one.reason, "quiet"));
  const body = make("div");
  body.append(make("div", one.detail));
  const rule = one.rule ? `${one.rule.resource ?? ""} ${one.rule.at ?? ""}`.trim() : "no rule names it";
  body.append(make("div", `decided by: ${rule || "what is built in"} · asked by ${one.client}, last ${new Date(one.last).toLocaleTimeString()}`, "quiet"));
  if (one.nearest) body.append(make("div", `nearest: ${one.nearest.rule} (${one.nearest.at ?? ""}), differs in ${one.nearest.differs_in}: ${one.nearest.declared}`, "quiet"));
  if (one.allowed_now) body.append(make("div", "The rules in force now would allow it.", "allowed"));
  for (const remedy of one.remedies) {
    const box = make("div", null, "remedy");
    const head = make("div", null, "head");
    const copy = make("button", "Copy");
    copy.type = "button";
    copy.setAttribute("aria-label", `Copy the YAML that allows ${target}`);
    const yaml = make("pre", remedy.yaml);
    copy.addEventListener("click", () => copyText(remedy.yaml, yaml));
    head.append(make("span", `would be allowed by, in ${remedy.where}:`, "quiet"), copy);
    box.append(head, yaml);
    body.append(box);
  }
  details.append(summary, body);
  item.append(details);
  return item;
}

async function copyText(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    getSelection().selectAllChildren(shown); // the clipboard is closed to pages over plain HTTP
    say("Selected: press Ctrl+C.");
  }
}

function showTunnels(listing) {
  const [open, matching] = [count(listing.open), count(listing.matching)];
  $("tunnel-count").textContent = listing.matching === listing.open ? `${open} open` : `${matching} of ${open}`;
  if (listing.matching > listing.tunnels.length) $("tunnel-count").textContent += `, ${listing.tunnels.length} shown`;
  const body = $("list").tBodies[0];
  const focused = body.contains(document.activeElement) ? document.activeElement.closest("tr").dataset.id : undefined;
  body.replaceChildren(...listing.tunnels.map((one) => tunnel(one)));
  if (focused) body.querySelector(`tr[data-id="${focused}"] button`)?.focus();
  empty("h-tunnels", listing.tunnels.length);
}

function tunnel(one) {
  const row = make("tr");
  row.dataset.id = one.id;
  const target = make("td", one.target, "name");
  if (one.hop) target.append(make("div", `through ${one.hop}`, "quiet"));
  const client = make("td", one.client, "name");
  if (one.identity) client.append(make("div", one.identity, "quiet"));
  const rule = make("td", one.rule ? one.rule.resource || one.cluster : "none any more", "name");
  rule.append(make("div", one.rule?.at ?? one.rule?.route ?? "", "quiet"));
  const pair = (down, up, of) => make("td", `${of(down)} / ${of(up)}`, "number");
  row.append(target, client, rule, make("td", age(one.age_s), "number"),
    pair(one.sent_bytes, one.received_bytes, bytes), pair(one.sent_rate, one.received_rate, rate));
  const end = make("td");
  if (view.writable && ($("access").hidden || $("token").value)) {
    const kill = make("button", "End", "kill");
    kill.type = "button";
    kill.setAttribute("aria-label", `End the tunnel of ${one.client} to ${one.target}`);
    kill.addEventListener("click", () => killTunnel(one));
    end.append(kill);
  }
  row.append(end);
  return row;
}

async function killTunnel(one) {
  const headers = $("token").value ? { Authorization: `Bearer ${$("token").value}` } : {};
  const answer = await fetch(`/tunnels/${one.id}/kill`, { method: "POST", headers, signal: AbortSignal.timeout(10 * SECOND) });
  say(answer.ok ? `Ended: ${one.client} to ${one.target}.` : (await answer.text()).trim());
  refreshTunnels();
}

async function refreshTunnels() {
  const query = new URLSearchParams({ sort: view.sort, order: view.order, limit: TUNNELS_SHOWN, filter: $("filter").value });
  showTunnels(await get(`/tunnels?${query}`));
}

// One round after another: a slow answer makes the page slower, never the port busier.
async function follow() {
  for (;;) {
    if (!document.hidden && !view.paused) {
      try {
        showOverview(await get("/overview"));
        await refreshTunnels();
      } catch {
        showState("not reachable", "bad");
      }
    }
    await new Promise((done) => setTimeout(done, SECOND));
  }
}

function sortBy(header) {
  const again = view.sort === header.dataset.sort;
  const first = ["target", "client"].includes(header.dataset.sort) ? "asc" : "desc";
  view.order = again ? (view.order === "asc" ? "desc" : "asc") : first;
  view.sort = header.dataset.sort;
  for (const other of document.querySelectorAll("th[data-sort]")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", view.order === "asc" ? "ascending" : "descending");
  refreshTunnels().catch(() => {});
}

const THEMES = ["auto", "light", "dark"];
function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  $("theme").setAttribute("aria-label", `Colour theme: ${theme === "auto" ? "as the system has it" : theme}`);
  localStorage.setItem("theme", theme);
}

for (const header of document.querySelectorAll("th[data-sort]")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
$("filter").addEventListener("input", () => refreshTunnels().catch(() => {}));
$("token").addEventListener("input", () => refreshTunnels().catch(() => {}));
$("access").addEventListener("submit", (event) => event.preventDefault());
$("pause").addEventListener("click", () => {
  view.paused = !view.paused;
  $("pause").setAttribute("aria-pressed", view.paused);
});
$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(localStorage.getItem("theme") ?? "auto") + 1) % THEMES.length]));
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("filter").focus();
  } else if (event.key === "Escape" && event.target === $("filter")) {
    $("filter").value = "";
    refreshTunnels().catch(() => {});
  }
});
setTheme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto");
follow();
