"use strict";
// Runs the page's worker in Node: `node litert_js.js WORKER PACKAGES JOBS`. JOBS is a JSON list of messages; a line of JSON
// per message goes to the standard output, up to the first error. What Node lacks of a worker's surroundings is here.
const fs = require("fs"), url = require("url"), vm = require("vm");
const [worker, packages, jobs] = process.argv.slice(2);
const print = (value) => fs.writeSync(1, `${JSON.stringify(value)}\n`);
const read = (address) => fs.readFileSync(url.fileURLToPath(address));
let answered;
Object.assign(globalThis, {self: globalThis, require, __filename: worker, __dirname});
globalThis.navigator ??= {};
globalThis.importScripts = (address) => vm.runInThisContext(read(address).toString(), {filename: address});
globalThis.fetch = async (address) => new Response(read(address));
globalThis.postMessage = (answer) => answered(answer);
const send = (data) => new Promise((resolve) => { answered = resolve; self.onmessage({data}); });
vm.runInThisContext(fs.readFileSync(worker, "utf8"), {
  filename: worker, importModuleDynamically: vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER,
});
(async () => {
  const all = [{task: "start", packages: `${url.pathToFileURL(packages)}/`}, ...JSON.parse(fs.readFileSync(jobs))];
  for (const job of all) {
    const answer = await send(job);
    print(answer);
    if (answer.failed || answer.done.error) break;
  }
  process.exit();
})();
