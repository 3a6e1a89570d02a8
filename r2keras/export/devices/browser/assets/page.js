"use strict";
// Runs the files of page.json in a worker, round by round, and shows and exports what comes back.
const ROUNDS = 3, PACKAGES = new URL("node_modules/@litertjs/", location.href).href;
const DASH = "\u2013";
const $ = (id) => document.getElementById(id);
let page, device = {}, rows = [], worker, address;

function problem(head, text, command = "") {
  $("problem-head").textContent = head;
  $("problem-text").textContent = text;
  $("problem-command").textContent = command;
  $("problem-command").hidden = !command;
  $("problem").hidden = false;
  $("state").textContent = "";
}

function stop() {
  worker.terminate();
  worker = undefined;
}

// Sends a message to the worker and returns its answer.
function ask(message) {
  return new Promise((resolve, reject) => {
    const fail = (text) => { stop(); reject(new Error(text)); };
    worker.onmessage = ({data}) => ("failed" in data ? fail(data.failed) : resolve(data.done));
    worker.onerror = (event) => {
      event.preventDefault();
      fail(`The worker stopped: ${event.message || "no message"}.`);
    };
    worker.postMessage(message);
  });
}

async function start() {
  worker = new Worker("worker.js");
  return ask({task: "start", packages: PACKAGES});
}

function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b), at = (sorted.length - 1) * share, low = Math.floor(at);
  return sorted[low] + (sorted[Math.ceil(at)] - sorted[low]) * (at - low);
}

function result(row) {
  const measured = row.times.length > 0 && !row.error;
  return {
    file: row.entry.file, sha256: row.sha256 ?? row.entry.sha256, bytes: row.bytes ?? row.entry.bytes,
    median_ms: measured ? quantile(row.times, 0.5) : null, p90_ms: measured ? quantile(row.times, 0.9) : null,
    runs: row.runs, threads: 1, passed: row.error ? null : row.passed ?? null, max_difference: row.max_difference ?? null,
    tolerance: row.tolerance ?? null, error: row.error ?? (row.passed === undefined ? "It has not run yet." : null),
  };
}

function exported() {
  const details = {
    ...device, user_agent: navigator.userAgent, cores: navigator.hardwareConcurrency ?? null,
    memory_gb: navigator.deviceMemory ?? null, page: page.title, expected_by: page.expected_by, written_by: page.written_by,
    date: new Date().toISOString(),
  };
  const about = {name: $("name").value.trim() || guess(), kind: "browser", details};
  return JSON.stringify({version: 1, kind: "r2keras-device-results", device: about, results: rows.map(result)}, null, 1);
}

function guess() {
  const agent = navigator.userAgent;
  const find = (pairs) => pairs.map(([name, pattern]) => [name, agent.match(pattern)]).find(([, match]) => match);
  const browsers = [["Edge", /Edg\w*\/(\d+)/], ["Firefox", /(?:Firefox|FxiOS)\/(\d+)/],
    ["Chrome", /(?:Chrome|CriOS)\/(\d+)/], ["Safari", /Version\/(\d+).*Safari/]];
  const systems = [["Android", /Android/], ["iPhone", /iPhone/], ["iPad", /iPad/], ["macOS", /Macintosh/],
    ["Windows", /Windows/], ["ChromeOS", /CrOS/], ["Linux", /Linux/]];
  const [browser, match] = find(browsers) ?? ["a browser", ["", ""]], [system] = find(systems) ?? ["an unknown system"];
  return `${browser} ${match[1]} on ${system}`.replace("  ", " ");
}

function number(value) {
  if (value === null) return DASH;
  return value >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
}

function small(value) {
  return value === 0 ? "0" : value.toExponential(1).replace("e-", "e\u2212").replace("e+0", "");
}

function cell(line, name, text) {
  const td = line.insertCell();
  td.className = name;
  td.textContent = text;
  return td;
}

function verdict(line, found) {
  const td = cell(line, "l", ""), mark = document.createElement("span");
  mark.className = found.passed ? "good" : "bad";
  mark.textContent = found.passed === null ? "did not run" : found.passed ? "passed" : "wrong";
  const off = found.max_difference === null ? "an output is not finite" : small(found.max_difference);
  const allowed = found.passed ? "" : `, allowed ${small(found.tolerance ?? 0)}`;
  td.append(mark, found.passed === null ? `: ${found.error}` : `: ${off}${allowed}`);
}

function show() {
  const body = $("results").tBodies[0], found = rows.map(result), first = found[0].median_ms;
  body.replaceChildren();
  rows.forEach((row, i) => {
    const line = body.insertRow(), one = found[i];
    cell(line, "l", one.file);
    cell(line, "more", one.bytes.toLocaleString("en"));
    if (row.error || row.passed !== undefined) verdict(line, one);
    else cell(line, "l", "waiting");
    cell(line, "", number(one.median_ms));
    cell(line, "more", number(one.p90_ms));
    cell(line, "", one.median_ms && first ? (one.median_ms / first).toFixed(2) : DASH);
  });
  publish();
}

function publish() {
  const text = exported();
  $("json").value = text;
  URL.revokeObjectURL(address);
  address = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  $("download").href = address;
}

// The clipboard of browsers is for secure origins, which an address of the local network is not; selected text is older.
async function copy() {
  const text = $("json");
  let done = true;
  try {
    await navigator.clipboard.writeText(text.value);
  } catch {
    text.closest("details").open = true;
    text.select();
    done = document.execCommand("copy");
  }
  $("copied").textContent = done ? "Copied." : "Copy the selected text.";
}

async function run(row, round) {
  if (!worker) await start();
  const answer = await ask({task: "run", entry: row.entry, seconds: page.seconds / ROUNDS, checks: round === 0});
  if (answer.error) stop();  // A runtime that failed may be in a state from which the next file cannot run.
  if (answer.sha256 !== row.entry.sha256) answer.error = "The server sent another file than the one of this page.";
  const {times = [], runs = 0, ...facts} = answer;
  Object.assign(row, facts, {times: [...row.times, ...times], runs: row.runs + runs});
}

async function all() {
  for (let round = 0; round < ROUNDS; round++) {
    for (const row of rows.filter((other) => !other.error)) {
      $("state").textContent = `Round ${round + 1} of ${ROUNDS}: ${row.entry.file} \u2026`;
      try {
        await run(row, round);
      } catch (error) {
        row.error = error.message;
      }
      show();
    }
  }
  const passed = rows.filter((row) => !row.error && row.passed).length;
  $("state").textContent = `Done: ${passed} of ${rows.length} files passed.`;
}

async function main() {
  if (location.protocol === "file:") {
    return problem("This page needs a web server", "Browsers do not let a page that was opened as a file read other files. " +
      "Run this in the folder of the page, then open http://localhost:8000:", "python -m http.server 8000");
  }
  const response = await fetch("page.json", {cache: "no-cache"});
  if (!response.ok) return problem("page.json is missing", "Write the page again, with r2keras.export.web_page.");
  page = await response.json();
  $("title").textContent = document.title = page.title;
  try {
    device = await start();
  } catch (error) {
    return problem("LiteRT.js does not start", `${error.message} If the package is missing, run this in the folder of the ` +
      "page, and reload:", `npm install --prefix . ${page.runtime}`);
  }
  $("sub").textContent = `${device.runtime} runs the files in this browser, on one thread of the processor.`;
  rows = page.files.map((entry) => ({entry, times: [], runs: 0}));
  $("name").value = guess();
  $("name").addEventListener("input", publish);
  $("copy").addEventListener("click", copy);
  $("results-card").hidden = $("export-card").hidden = false;
  show();
  await all();
}

main().catch((error) => problem("The page failed", error.message));
