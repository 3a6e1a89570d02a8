"use strict";
// Runs .tflite files on LiteRT.js, one at a time. page.js starts it and sends it messages; tests start it in Node, too.
const MIN_BLOCK_MS = 10, MAX_BLOCKS = 100, DATA = {float32: Float32Array, int32: Int32Array};
let litert, log = [];

async function got(url) {
  const response = await fetch(url, {cache: "no-cache"});
  if (!response.ok) throw new Error(`${url} is missing (status ${response.status}).`);
  return response;
}

// The package imports its other package by name, which a worker cannot resolve: the name becomes an address.
async function imported(packages) {
  const text = await (await got(`${packages}core/dist/index.js`)).text();
  const other = JSON.stringify(`${packages}wasm-utils/dist/index.js`);
  const source = text.replace(/["']@litertjs\/wasm-utils["']/, other).replace(/\/\/# sourceMappingURL=.*/, "");
  return import(`data:text/javascript,${encodeURIComponent(source)}`);
}

async function start({packages}) {
  const {name, version} = await (await got(`${packages}core/package.json`)).json();
  litert = await imported(packages);
  // The processor runs the files. Without a stand-in the package looks for a GPU, and warns if there is none.
  const nothing = {requestDevice: async () => null, limits: {}, features: new Set()};
  Object.defineProperty(self.navigator, "gpu", {value: {requestAdapter: async () => nothing}, configurable: true});
  const keep = (...words) => { log = [...log, words.join(" ")].slice(-40); };
  self.Module = {locateFile: (path) => `${packages}core/wasm/${path}`, print: keep, printErr: keep};
  await litert.loadLiteRt(`${packages}core/wasm/`);
  return {runtime: `${name} ${version}`, relaxed_simd: await litert.supportsFeature("relaxedSimd")};
}

async function values(item) {
  return new DATA[item.dtype](await (await got(item.url)).arrayBuffer());
}

// Samples `start` to `start + count` of an input as one batch; a batch that is not full ends with zeros.
function batch(array, item, start, count) {
  const size = item.shape.reduce((a, b) => a * b, 1);
  const part = new DATA[item.dtype](size * count);
  part.set(array.subarray(start * size, (start + count) * size));
  return new litert.Tensor(part, [count, ...item.shape]);
}

function tensors(arrays, entry, start) {
  return Object.fromEntries(entry.inputs.map((item, i) => [item.name, batch(arrays[i], item, start, entry.batch)]));
}

function free(record) {
  for (const tensor of Object.values(record)) tensor.delete();
}

async function check(model, arrays, entry) {
  const expected = await Promise.all(entry.outputs.map(values));
  const largest = entry.outputs.map(() => 0);
  for (let start = 0; start < entry.samples; start += entry.batch) {
    const inputs = tensors(arrays, entry, start), outputs = await model.run(inputs);
    entry.outputs.forEach((item, i) => {
      const size = item.shape.reduce((a, b) => a * b, 1), found = outputs[item.name].toTypedArray();
      const count = Math.min(entry.batch, entry.samples - start) * size;
      for (let k = 0; k < count; k++) {
        const off = Math.abs(found[k] - expected[i][start * size + k]);
        if (!(off <= largest[i])) largest[i] = Number.isFinite(off) ? off : Infinity;
      }
    });
    free(inputs);
    free(outputs);
  }
  const shares = entry.outputs.map((item, i) => (largest[i] === 0 ? 0 : largest[i] / item.tolerance));
  const worst = shares.indexOf(Math.max(...shares));
  const difference = Number.isFinite(largest[worst]) ? largest[worst] : null;
  return {passed: shares[worst] <= 1, max_difference: difference, tolerance: entry.outputs[worst].tolerance};
}

// Clocks of browsers tick every 0.1 to 1 ms: runs are timed in blocks of 10 ms, and a block counts with its mean.
async function measure(model, arrays, entry, seconds) {
  const inputs = tensors(arrays, entry, 0);
  const block = async (count) => {
    const begin = performance.now();
    for (let i = 0; i < count; i++) free(await model.run(inputs));
    return performance.now() - begin;
  };
  let count = 1, took = await block(1);
  while (took < MIN_BLOCK_MS && count < 1e5) took = await block(count *= 2);
  const times = [], end = performance.now() + 1000 * seconds;
  do times.push(await block(count) / count); while (performance.now() < end && times.length < MAX_BLOCKS);
  free(inputs);
  return {times, runs: times.length * count};
}

// What went wrong, with what the runtime said about it.
function reason(error) {
  const said = log.filter((line) => /error/i.test(line) && !/accelerator could not be loaded/.test(line)).map((line) => line.replace(/^.*?\] /, ""));
  return [...new Set([error.message ?? String(error), ...said])].join(" ").slice(0, 500);
}

async function run({entry, seconds, checks}) {
  log = [];
  const content = new Uint8Array(await (await got(entry.url)).arrayBuffer());
  const facts = {bytes: content.length, sha256: sha256(content)};
  let model;
  try {
    model = await litert.loadAndCompile(content, {accelerator: "wasm"});
    const arrays = await Promise.all(entry.inputs.map(values));
    const found = checks ? await check(model, arrays, entry) : {};
    return {...facts, ...found, ...(await measure(model, arrays, entry, seconds))};
  } catch (error) {
    return {...facts, error: reason(error)};
  } finally {
    model?.delete();
  }
}

// Browsers offer SHA-256 to secure origins only, and a phone that opens an address of the local network has none.
function sha256(content) {
  const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0, primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const keys = primes.map((p) => fraction(Math.cbrt(p))), state = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const padded = new Uint8Array(((content.length + 72) >> 6) << 6), view = new DataView(padded.buffer);
  padded.set(content);
  padded[content.length] = 128;
  view.setUint32(padded.length - 8, Math.floor(content.length / 2 ** 29));
  view.setUint32(padded.length - 4, content.length << 3);
  const turn = (x, n) => (x >>> n) | (x << (32 - n)), w = new Int32Array(64);
  for (let offset = 0; offset < padded.length; offset += 64) {
    for (let i = 0; i < 64; i++) {
      if (i < 16) { w[i] = view.getInt32(offset + 4 * i); continue; }
      const a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + keys[i] + w[i]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [a, b, c, d, e, f, g, h] = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => { state[i] = (state[i] + x) | 0; });
  }
  return state.map((x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
}

self.onmessage = async ({data}) => {
  try {
    self.postMessage({done: await {start, run}[data.task](data)});
  } catch (error) {
    self.postMessage({failed: reason(error)});
  }
};
