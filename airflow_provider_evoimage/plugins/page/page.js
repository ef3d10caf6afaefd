// The pages of EvoLink's images in the Airflow UI. Every text is foreign, so it is only ever set as text.

const REFRESH_MS = 5000;
const query = new URLSearchParams(location.search);
const $ = (id) => document.getElementById(id);
const base = location.pathname.replace(/\/evoimage\/page\/?$/, "");

// Airflow leaves a placeholder as it is where it has no value; 3.1 turns a plus into a blank.
const given = (name) => {
  const value = query.get(name);
  return value === null || /^\{[A-Z_]+\}$/.test(value) ? null : value;
};
const runId = (given("run_id") ?? "").replaceAll(" ", "+");
const view = given("view") ?? "list";
const task = { dag_id: given("dag_id") ?? "", run_id: runId };
if (view === "task") {
  task.task_id = given("task_id") ?? "";
  if (/^-?\d+$/.test(given("map_index") ?? "")) task.map_index = given("map_index");
}

// The parent is Airflow's own page; outside a frame its choice stands in the local storage.
function followTheme() {
  let host = null;
  try { host = parent !== window ? parent.document.documentElement : null; } catch { /* another origin */ }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    let isDark = dark.matches;
    const chosen = localStorage.getItem("theme");
    if (host) {
      isDark = host.classList.contains("dark");
      // Airflow colours its body or the root above it, by version.
      const colour = [parent.document.body, host].map((each) => getComputedStyle(each).backgroundColor)
        .find((each) => each && !/, 0\)$|transparent/.test(each));
      if (colour) document.documentElement.style.setProperty("--ground", colour);
    } else if (chosen === "dark" || chosen === "light") isDark = chosen === "dark";
    document.documentElement.classList.toggle("dark", isDark);
  };
  apply();
  if (host) new MutationObserver(() => setTimeout(apply, 50)).observe(host, { attributes: true, attributeFilter: ["class"] });
  dark.addEventListener("change", apply);
  addEventListener("storage", apply);
}

function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value === null || value === undefined) continue;
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

async function ask(path, parameters) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) if (value !== null && value !== undefined && value !== "") search.set(key, value);
  const response = await fetch(`${base}/evoimage/api/${path}?${search}`, { credentials: "same-origin" });
  if (response.ok) return response.json();
  throw new Error(await reason(response));
}

async function reason(response) {
  if (response.status === 401) return "You are logged out: reload Airflow.";
  let detail = "";
  try { detail = (await response.json()).detail; } catch { /* a page of something in between */ }
  if (response.status === 403 && (typeof detail !== "string" || detail === "Forbidden")) return "You may not read the XComs and task instances of this DAG.";
  return typeof detail === "string" && detail ? detail : `Airflow answered ${response.status}.`;
}

const keyOf = (card) => ({ dag_id: card.dag_id, run_id: card.run_id, task_id: card.task_id, map_index: card.map_index });

function pictureUrl(card, file, size, extra = {}) {
  const search = new URLSearchParams({ ...keyOf(card), index: file.index, size, ...extra });
  if (file.v) search.set("v", file.v);
  return `${base}/evoimage/image?${search}`;
}

const number = (value, digits = 2) => Number(value).toLocaleString("en", { maximumFractionDigits: digits });
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const unbroken = (text) => text.replaceAll(" ", "\u00a0");
const cost = (card) => {
  if (card.reused && card.credits === 0) return "reused, 0 credits";
  if (card.reused_from) return `Reused from ${card.reused_from}; 0 credits`;
  if (card.credits !== null) return `${number(card.credits, 4)} credits (${number(card.usd, 4)} USD)`;
  return card.credits_reserved !== null ? `${number(card.credits_reserved, 4)} credits reserved` : "charge unknown";
};

function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  return whole < 7200 ? `${Math.round(whole / 60)} min` : `${number(whole / 3600, 1)} h`;
}

// Links leave the frame by the parent's own history, so that Airflow's page changes without a reload.
function airflowLink(path, text, label) {
  const address = `${base}${path}`;
  return element("a", {
    href: address, text, "aria-label": label, onclick: (event) => {
      if (parent === window || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      try {
        parent.history.pushState(null, "", address);
        parent.dispatchEvent(new PopStateEvent("popstate"));
      } catch {
        const anchor = parent.document.createElement("a");
        anchor.href = address;
        anchor.click();
      }
    },
  });
}

function taskPath(card) {
  const [dag, run, name] = [card.dag_id, card.run_id, card.task_id].map(encodeURIComponent);
  return `/dags/${dag}/runs/${run}/tasks/${name}${card.map_index >= 0 ? `/mapped/${card.map_index}` : ""}`;
}

function copyButton(text, label) {
  return element("button", {
    type: "button", text: "Copy", "aria-label": label, onclick: async (event) => {
      const button = event.currentTarget;
      try { await navigator.clipboard.writeText(text); } catch {
        const field = element("textarea", { text });
        button.after(field); field.select(); document.execCommand("copy"); field.remove(); button.focus();
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    },
  });
}

function describe(card, file) {
  const prompt = card.prompt ? `: ${card.prompt.slice(0, 120)}` : "";
  return `Image ${file.index + 1} of ${card.label || card.task_id}${prompt}`;
}

function thumbnail(card, file, open, extra = {}) {
  if (!file.visible) return element("div", { class: "note", text: "Not shown: its folder is not listed in image_roots." });
  const url = pictureUrl(card, file, "small", extra);
  const image = element("img", { loading: "lazy", decoding: "async", alt: describe(card, file) });
  const button = element("button", { type: "button", onclick: open }, image);
  let tries = 0;
  image.addEventListener("error", async () => {
    let words = "The picture cannot be loaded.";
    try {
      const response = await fetch(url, { credentials: "same-origin" });
      if (response.status === 503 && tries++ < 5) {
        setTimeout(() => { image.src = `${url}&again=${tries}`; }, 1500 * tries);
        return;
      }
      words = await reason(response);
    } catch { /* offline */ }
    button.replaceWith(element("div", { class: "note", text: words }));
  });
  image.src = url;
  return button;
}

const STATES = { made: "made", waiting: "waiting", failed: "failed", retrying: "will retry", idle: "not yet", none: "no images", skipped: "skipped" };

function stateLine(card) {
  const moment = card.pushed ?? card.ended ?? card.started;
  const time = moment ? element("time", { datetime: moment, text: new Date(moment).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) }) : null;
  return element("p", { class: "state" }, element("b", { text: STATES[card.state] ?? card.state }), time);
}

function approvalLines(card) {
  const approval = card.approval;
  if (!approval) return [];
  if (approval.chosen === null) return [element("p", { class: "facts", text: 'Waits for an answer: tab "Required Actions" of this task.' })];
  const who = approval.by ? `by ${approval.by}` : "as nobody answered in time";
  const when = approval.at ? new Date(approval.at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "";
  return [
    element("p", { class: "facts", text: `${number(approval.chosen.length)} of ${number(approval.of)} approved ${who} · ${when}` }),
    approval.comment ? element("p", { dir: "auto", text: approval.comment }) : null,
  ];
}

// Images of an approval have numbers; renditions follow the image that they are cut from.
function picturesOf(card, file) {
  const words = file.number ? `${file.number}${file.chosen === null ? "" : file.chosen ? " · approved" : " · not approved"}` : "";
  const captioned = (picture, text) => text ? element("div", { class: `captioned${file.chosen ? " approved" : ""}` }, picture, element("span", { text })) : picture;
  const cut = (file.renditions ?? []).map((each) => {
    const shown = { ...each, index: file.index };
    const extra = { rendition: each.place };
    return captioned(thumbnail(card, shown, () => open(card, shown, extra), extra), [file.number, each.channel, `${each.width}×${each.height}`].filter(Boolean).join(" · "));
  });
  return [captioned(thumbnail(card, file, () => open(card, file)), words), ...cut];
}

function waitingLine(card) {
  if (card.state !== "waiting" || card.approval) return null;
  const since = card.pushed ? `${duration((Date.now() - new Date(card.pushed)) / 1000)} so far` : "";
  const expected = card.expected_seconds ? `EvoLink expects about ${duration(card.expected_seconds)}` : "";
  return element("p", { class: "facts", text: ["EvoLink works on it", since, expected].filter(Boolean).join("; ") });
}

function batchLine(card) {
  if (!card.batch) return null;
  const parts = [plural(card.batch.items, "item"), `${card.batch.items_saved} saved`];
  for (const [name, word] of [["items_reused", "reused"], ["items_failed", "failed"], ["items_waiting", "waiting"], ["items_queued", "queued"], ["items_left_out", "left out"]])
    if (card.batch[name]) parts.push(`${card.batch[name]} ${word}`);
  return element("p", { class: "facts", text: parts.join(" · ") });
}

function errorLines(card) {
  if (!card.error || !["failed", "retrying"].includes(card.state)) return [];
  const billed = { true: "Billed: yes.", false: "Billed: no.", null: "Billed: unknown." }[String(card.error.billed)];
  return [
    element("p", { class: "error", text: card.error.message }),
    element("p", { class: "facts", text: [billed, card.error.on_retry].filter(Boolean).join(" ") }),
  ];
}

function makeCard(card, { isAlone = false } = {}) {
  // The items of a batch follow below it.
  const isBatch = isAlone && card.batch && card.manifest;
  const shown = isBatch ? [] : isAlone ? card.files : card.files.slice(0, 4);
  const pictures = shown.length
    ? element("div", { class: `pictures${shown.length > 1 ? " several" : ""}` },
      ...shown.flatMap((file) => picturesOf(card, file)))
    : isBatch ? null : element("div", { class: "empty", text: card.note || (card.error ? "No image" : card.state === "waiting" ? "The image is on its way." : "No image") });
  const visible = shown.some((file) => file.visible);
  const more = card.images > shown.length && shown.length ? `${plural(card.images, "image")}, ${shown.length} shown` : card.images ? plural(card.images, "image") : "";
  const facts = [card.model, card.size, card.quality, more, card.credits !== null || card.credits_reserved !== null || (["made", "waiting"].includes(card.state) && !card.approval) ? cost(card) : ""].filter(Boolean).map(unbroken).join(" · ");
  const name = `${card.dag_id} · ${card.task_id}${card.map_index >= 0 ? ` [${card.label || card.map_index}]` : ""}`;
  return element("article", { class: card.state },
    pictures,
    stateLine(card), waitingLine(card), ...approvalLines(card), batchLine(card),
    card.prompt ? element("p", { class: "prompt", dir: "auto", text: card.prompt }) : null,
    ...errorLines(card),
    shown.length && !visible && card.note ? element("p", { class: "facts", text: card.note }) : null,
    facts ? element("p", { class: "facts", text: facts }) : null,
    view === "task" && isAlone ? null : element("p", { class: "where" }, airflowLink(`${taskPath(card)}/plugin/evoimage-task`, name)),
    ...(isAlone && !isBatch ? card.files.map((file) => pathLine(file.path)) : []),
    isAlone && card.manifest ? pathLine(card.manifest) : null,
    isAlone && card.ids.length ? element("p", { class: "where", text: `EvoLink ${card.ids.length === 1 ? "task" : "tasks"} ${card.ids.join(", ")}` }) : null);
}

const pathLine = (path) => path ? element("div", { class: "path" }, element("code", { text: path }), copyButton(path, `Copy the path ${path}`)) : null;

// ---- one image, large

let opened = null;

async function open(card, file, extra = {}) {
  opened = { card, file, extra };
  const image = $("full");
  $("gone").hidden = true;
  image.hidden = false;
  image.alt = describe(card, file);
  image.src = pictureUrl(card, file, "full", extra);
  if (!$("viewer").open) $("viewer").showModal();
  const facts = $("facts");
  facts.replaceChildren(
    element("p", { text: file.width ? `${file.width} × ${file.height} pixels` : "" }), pathLine(file.path) ?? "");
  try {
    const found = await ask("details", { ...keyOf(card), ...extra });
    if (opened?.card === card && opened?.file === file) showDetails(facts, card, found.generations, extra);
  } catch (error) {
    facts.append(element("p", { class: "error", text: error.message }));
  }
}

function showDetails(facts, card, generations, extra) {
  let reference = 0;
  for (const each of generations) {
    const parameters = Object.entries({ model: each.model, ...each.parameters }).filter(([, value]) => value);
    facts.append(element("h2", { text: `EvoLink task ${each.evolink_task_id}` }));
    if (each.prompt) facts.append(element("p", { dir: "auto", text: each.prompt }), copyButton(each.prompt, "Copy the prompt"));
    facts.append(element("p", { class: "facts", text: parameters.map(([name, value]) => `${name} ${value}`).join(" · ") }));
    if (each.credits !== null) facts.append(element("p", { class: "facts", text: cost(each) }));
    if (each.references.length) {
      const row = element("div", { class: "references" });
      for (const one of each.references) {
        const place = reference++;
        row.append(one.visible
          ? element("img", { alt: `Reference ${place + 1}`, loading: "lazy", src: pictureUrl(card, { index: 0 }, "small", { ...extra, reference: place }) })
          : element("p", { class: "facts", text: one.path }));
      }
      facts.append(element("h2", { text: "References" }), row);
    }
    if (each.code) facts.append(element("h2", { text: "The same request again" }), element("pre", { text: each.code }), copyButton(each.code, "Copy the code"));
  }
}

function step(by) {
  if (!opened) return;
  const files = opened.card.files.filter((each) => each.visible);
  const place = files.indexOf(opened.file) + by;
  if (place >= 0 && place < files.length) open(opened.card, files[place], opened.extra);
}

$("full").addEventListener("error", async () => {
  if (!opened) return;
  const image = $("full");
  let words = "The picture cannot be loaded.";
  try { words = await reason(await fetch(image.src, { credentials: "same-origin" })); } catch { /* offline */ }
  image.hidden = true;
  $("gone").textContent = words;
  $("gone").hidden = false;
});
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => { opened = null; $("full").removeAttribute("src"); });
$("viewer").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

// ---- the lists

let cards = [];
let next = null;
let loads = 0;

function showTotals(values) {
  const boxes = values.filter(([, value]) => value !== null && value !== undefined);
  $("totals").hidden = !boxes.length;
  $("totals").replaceChildren(...boxes.map(([name, value]) => element("div", {}, element("dt", { text: name }), element("dd", { text: value }))));
}

function render() {
  const isAlone = view === "task" && cards.length === 1;
  $("cards").classList.toggle("one", isAlone);
  // A card that says the same as before keeps its pictures.
  const before = new Map([...$("cards").children].map((each) => [each.dataset.said, each]));
  $("cards").replaceChildren(...cards.map((card) => {
    const said = JSON.stringify([card, card.state === "waiting" ? Date.now() : 0]);
    const kept = before.get(said);
    if (kept) return kept;
    const made = makeCard(card, { isAlone });
    made.dataset.said = said;
    return made;
  }));
  $("more").hidden = !next;
}

// As `totals` of cards.py: a generation that several tasks tell of counts once.
function toldOnce(all) {
  const known = new Set(), found = [];
  const rank = (card) => [card.state === "waiting" ? 1 : 0, card.batch ? 0 : 1, card.ids.length];
  const sorted = [...all].sort((one, other) => {
    const [first, second] = [rank(one), rank(other)];
    return first[0] - second[0] || first[1] - second[1] || first[2] - second[2];
  });
  for (const card of sorted) {
    if (card.approval || card.ids.some((id) => known.has(id))) continue;
    card.ids.forEach((id) => known.add(id));
    found.push(card);
  }
  return found;
}

function sayWhatIsShown(answer) {
  const problems = answer.problems ?? [];
  $("problems").hidden = !problems.length;
  $("problems").textContent = problems.join(" ");
  if (view === "run" && answer.totals) {
    const sums = answer.totals;
    showTotals([["images", number(sums.images)], ["tasks", number(sums.tasks)], ["waiting", number(sums.waiting)],
      ["failed", number(sums.failed)], ["credits", number(sums.credits, 4)], ["USD", number(sums.usd, 4)]]);
  }
  if (view === "list") {
    const own = toldOnce(cards);
    const sumOf = (name) => own.reduce((sum, card) => sum + (card[name] ?? 0), 0);
    showTotals(cards.length ? [["tasks shown", number(cards.length)], ["images", number(sumOf("images"))],
      ["waiting", number(cards.filter((card) => card.state === "waiting").length)],
      ["credits", number(sumOf("credits"), 4)], ["USD", number(sumOf("usd"), 4)]] : []);
  }
  const nothing = {
    list: "No images match. They appear here when a task of an EvoLink operator has asked for one.",
    run: "This run has no tasks of EvoLink's operators.",
    task: "Airflow knows no such task instance.",
  }[view];
  $("status").textContent = cards.length ? "" : next ? "Nothing among the tasks searched so far." : nothing ?? "";
  $("status").hidden = cards.length > 0;
}

const filters = () => Object.fromEntries(new FormData($("filters")));
const parametersOf = () => view === "list" ? filters() : task;

async function load({ isMore = false } = {}) {
  const own = ++loads;
  try {
    const place = isMore ? { [view === "run" ? "after" : "before"]: next } : {};
    const answer = await ask(view === "list" ? "list" : view, { ...parametersOf(), ...place });
    if (own !== loads) return;
    cards = isMore ? [...cards, ...answer.cards] : answer.cards;
    next = answer.next;
    render();
    sayWhatIsShown(answer);
    if (view === "task" && cards.length === 1 && cards[0].batch) await loadItems();
  } catch (error) {
    if (own !== loads) return;
    $("status").hidden = false;
    $("status").textContent = error.message;
  }
}

async function loadItems(offset = 0) {
  const [card] = cards;
  try {
    const answer = await ask("batch", { ...keyOf(card), offset });
    const made = answer.items.map((line) => {
      const files = line.files;
      const one = { ...card, prompt: line.prompt, files, label: line.name || `item ${line.item}` };
      return element("article", { class: line.state === "saved" ? "made" : line.state },
        files.length
          ? element("div", { class: `pictures${files.length > 1 ? " several" : ""}` }, ...files.map((file) => thumbnail(one, file, () => open(one, file, { item: line.item }), { item: line.item })))
          : element("div", { class: "empty", text: line.error || line.state }),
        element("p", { class: "state" }, element("b", { text: line.state }), element("span", { text: line.name || `item ${line.item}` })),
        element("p", { class: "prompt", dir: "auto", text: line.prompt }));
    });
    if (offset) $("items").append(...made); else $("items").replaceChildren(...made);
    $("more").hidden = answer.next === null;
    next = answer.next;
  } catch (error) {
    $("items").replaceChildren(element("p", { class: "facts", text: `The items are not shown: ${error.message}` }));
  }
}

$("more").addEventListener("click", () => view === "task" && cards[0]?.batch ? loadItems(next) : load({ isMore: true }));
let typing;
$("filters").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => load(), 250); });
$("filters").addEventListener("submit", (event) => { event.preventDefault(); load(); });

const isUnfinished = () => cards.some((card) => ["waiting", "retrying", "idle"].includes(card.state) && card.is_ours);
setInterval(() => {
  // Not while somebody looks at more than the first page, or at one picture.
  if (document.hidden || $("viewer").open || !isUnfinished()) return;
  if (cards.length <= (view === "list" ? 24 : 200) && !$("items").children.length) load();
}, REFRESH_MS);

followTheme();
$("filters").hidden = view !== "list";
$("title").textContent = { list: "Images", run: `Images of this run`, task: `Images of ${task.task_id ?? ""}` }[view] ?? "Images";
if (view !== "list" && view !== "run" && view !== "task") $("status").textContent = "There is no such page."; else load();
