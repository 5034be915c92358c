// The page at `/`: a photo in, its release out, the three answers beside the sliders.

import { listenToCamera } from "./camera.js";
import { $, asRefusal, call, make, Refusal, showProblem, useKey } from "./common.js";
import { chooseFace, fillTables } from "./table.js";
import { changedBox, closeUp } from "./zoom.js";
import { howPrivate, isItPrivate, levels, more, round, seen, starts, stops } from "./words.js";

const QUIET_MS = 300; // how long a slider rests before its setting is tried
const CONTROLS = ["epsilon", "strength", "perturbation"];
const TELL = {
  epsilon: (value) => `epsilon ${round(value, 3)}`,
  strength: (value) => seen(value),
  perturbation: (value) => (value ? levels(value) : "off"),
};
const SUFFIX = { "image/png": "png", "image/webp": "webp", "image/jpeg": "jpg" };

let policy = null; // what the server allows
let stop = {}; // control -> its values, from least to most private
let photo = null; // the chosen File or Blob; it never leaves this tab but for the requests
let release = null; // the answer for the settings shown
let readings = null; // what was read in each face: private, in this tab only
let chosen = 0; // face of the table
let latest = 0; // number of the newest request: an older answer is thrown away
let pending = new AbortController();
let timer = 0;
let faces = null; // where the release differs from the photo
const addresses = { before: "", after: "" };

const settings = () => Object.fromEntries(CONTROLS.map((name) => [name, stop[name][$(name).valueAsNumber]]));

async function begin() {
  setState("empty");
  try {
    policy = await (await call("policy")).json();
  } catch (error) {
    fail(asRefusal(error));
    return;
  }
  $("key-form").hidden = !policy.key_required;
  stop = stops(policy);
  const start = starts(policy);
  for (const name of CONTROLS) {
    const input = $(name);
    input.max = stop[name].length - 1;
    input.disabled = stop[name].length < 2;
    place(name, start[name]);
  }
  answer();
  if (photo) request(); // chosen while the policy was on its way
}

/** Puts a slider where `value` is nearest. */
function place(name, value) {
  const far = stop[name].map((candidate) => Math.abs(candidate - value));
  $(name).value = far.indexOf(Math.min(...far));
  label(name);
}

function label(name) {
  const input = $(name), text = TELL[name](stop[name][input.valueAsNumber]);
  $(`${name}-value`).textContent = text;
  input.setAttribute("aria-valuetext", text);
  input.style.setProperty("--fill", `${(100 * input.valueAsNumber) / Math.max(1, Number(input.max))}%`);
}

function changed(name) {
  label(name);
  if (!photo) {
    answer();
    return;
  }
  latest += 1; // whatever is under way answers an older question
  pending.abort();
  setState("working", "Waiting for the slider to rest…");
  clearTimeout(timer);
  timer = setTimeout(request, QUIET_MS);
}

function take(file) {
  if (!file) return;
  if (policy && file.size > policy.max_bytes) {
    fail(new Refusal({
      title: "The file is too large",
      detail: `It has ${megabytes(file.size)}, and this server takes up to ${megabytes(policy.max_bytes)}.`,
      remedy: "Choose a smaller one, or save this one at a lower resolution.",
      status: 413,
    }));
    return;
  }
  photo = file;
  release = readings = null;
  chosen = 0;
  URL.revokeObjectURL(addresses.before);
  addresses.before = URL.createObjectURL(file);
  $("before").src = $("after").src = addresses.before; // the second gives the frame its size until the release is there
  $("compare").classList.add("single");
  $("zoom").setAttribute("aria-pressed", "false");
  faces = null;
  zoom();
  $("attributes").hidden = true;
  $("stage-title").focus({ preventScroll: true }); // the button that was pressed is about to go
  if (policy) request();
}

const megabytes = (bytes) => `${round(bytes / 2 ** 20, 2)} MB`;

/** Asks for the release at the settings shown. Only the newest request may show its answer. */
async function request() {
  const mine = ++latest;
  pending.abort();
  pending = new AbortController();
  clearTimeout(timer);
  showProblem(null);
  setState("working", "Painting a new face…");
  const asked = settings(), began = performance.now();
  try {
    const answered = await (await call(`anonymize?${new URLSearchParams(asked)}`, {
      method: "POST", body: photo, signal: pending.signal, headers: { "Content-Type": mediaType(photo), Accept: "application/json" },
    })).json();
    if (mine !== latest) return;
    await show(answered, (performance.now() - began) / 1000, () => mine === latest);
  } catch (error) {
    if (mine === latest && error.name !== "AbortError") fail(asRefusal(error));
  }
}

const mediaType = (file) => file.type || (/\.hei[cf]$/i.test(file.name ?? "") ? "image/heic" : "application/octet-stream");

async function show(answered, seconds, current) {
  const bytes = Uint8Array.from(atob(answered.photo), (character) => character.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type: answered.media_type }));
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  if (!current()) {
    URL.revokeObjectURL(address);
    return;
  }
  $("after").src = address;
  URL.revokeObjectURL(addresses.after);
  addresses.after = address;
  $("compare").classList.toggle("single", !$("before").naturalWidth);
  $("download").href = address;
  $("download").download = `de-identified.${SUFFIX[answered.media_type] ?? "png"}`;
  release = answered;
  const count = answered.faces.length;
  setState("done", `${count === 1 ? "One face" : `${count} faces`} painted anew in ${round(seconds, 2)} s.`
    + ($("before").naturalWidth ? "" : " This browser cannot show the original’s format."));
  faces = $("compare").classList.contains("single") ? null : changedBox($("before"), picture);
  zoom();
  cut();
  answer();
  if (readings) table(); else read();
}

/** The private column of the table, once per photo. A refusal leaves the table out: the release stands without it. */
async function read() {
  const mine = photo;
  try {
    const { faces } = await (await call("attributes", { method: "POST", body: mine, headers: { "Content-Type": mediaType(mine) } })).json();
    if (mine !== photo) return;
    readings = faces;
    table();
  } catch (error) {
    asRefusal(error);
  }
}

function fail(refusal) {
  release = null;
  showProblem(refusal);
  setState("error");
  // Whatever else the service refuses, it will refuse again.
  $("again").hidden = ![0, 408, 429].includes(refusal.status) && refusal.status < 500;
  if (refusal.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  if (policy) answer();
}

function setState(state, text = "") {
  document.body.dataset.state = state;
  $("drop").hidden = photo !== null && (state === "working" || state === "done");
  $("compare").hidden = !(state === "working" || state === "done");
  $("actions").hidden = state !== "done";
  $("record").hidden = state !== "done";
  if (state === "error" || state === "empty") $("attributes").hidden = true;
  for (const id of ["answers", "attributes"]) $(id).setAttribute("aria-busy", String(state === "working"));
  $("status").textContent = text;
}

/** The three answers: for the release, or for what a release at these settings would promise. */
function answer() {
  const face = release ? released() : { ...settings(), region: policy.region, t: null };
  for (const [id, found] of [["now", isItPrivate(face, policy.measured)], ["how", howPrivate(face)], ["more", more(face, policy)]]) {
    const verdict = $(id).querySelector(".verdict"), words = $(id).querySelector(".words");
    if (verdict.textContent !== found.verdict) verdict.textContent = found.verdict; // read aloud where it changes
    verdict.dataset.level = found.level;
    words.replaceChildren();
    if (found.figures) words.append(make("dl", { className: "figures" }, ...found.figures.map(([value, what]) => make("div", {}, make("dt", {}, what), make("dd", {}, value)))));
    if (found.steps?.length) words.append(make("ul", { className: "steps" }, ...found.steps.map(stepItem)));
    words.append(...found.words.map((text) => make("p", {}, text)));
  }
  if (release) record();
}

/** The evidence that stands for all faces of the release: the settings are the same for each of them. */
function released() {
  const face = release.faces[0], faces = release.faces.length;
  return { ...face, faces, kept: face.unprotected.filter((name) => !policy.outside.includes(name)) };
}

function stepItem({ control, value, label: text, gain }) {
  const button = make("button", { type: "button", className: "button" }, text);
  button.addEventListener("click", () => {
    place(control, value);
    $(control).focus();
    changed(control);
  });
  return make("li", {}, button, make("span", {}, gain));
}

function table() {
  if (!release || !readings || readings.length !== release.faces.length) return;
  fillTables(policy.attributes, release.faces[chosen], readings[chosen]);
  chooseFace(release.faces.length, chosen, (face) => { chosen = face; table(); });
  $("attributes").hidden = false;
}

function record() {
  const asked = new URLSearchParams(settings());
  const key = policy.key_required ? " -H 'Authorization: Bearer KEY'" : "";
  $("command").textContent = `curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg'${key} -o released.jpg \\\n  '${new URL("../v1/anonymize", import.meta.url)}?${asked}'`;
  const { covers, weights, precision } = release.faces[0];
  $("covers").textContent = `In the words of the release: ${covers}`;
  const rows = [["release", release.release], ["arithmetic", precision], ...Object.entries(weights)];
  $("weights").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

function cut() {
  const share = $("cut").valueAsNumber;
  $("curtain").style.clipPath = $("compare").classList.contains("single") ? "none" : `inset(0 ${100 - share}% 0 0)`;
  document.querySelector(".divider").style.left = `${share}%`;
  $("cut").setAttribute("aria-valuetext", `before on the left ${share} %`);
}

function zoom() {
  const button = $("zoom"), close = faces && button.getAttribute("aria-pressed") === "true";
  button.hidden = !faces;
  button.textContent = close ? "Zoom out" : "Zoom in";
  $("before").style.transform = $("after").style.transform = closeUp(close ? faces : null);
}

async function sample() {
  const answered = await fetch(new URL("sample.jpg", import.meta.url));
  take(await answered.blob());
}

function another() {
  latest += 1;
  pending.abort();
  photo = release = readings = null;
  showProblem(null);
  setState("empty");
  answer();
  $("choose").focus();
}

function listen() {
  for (const name of CONTROLS) $(name).addEventListener("input", () => changed(name));
  $("cut").addEventListener("input", cut);
  $("zoom").addEventListener("click", () => { $("zoom").setAttribute("aria-pressed", $("zoom").getAttribute("aria-pressed") !== "true"); zoom(); });
  $("before").addEventListener("load", cut);
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
  $("sample").addEventListener("click", sample);
  $("another").addEventListener("click", another);
  $("again").addEventListener("click", () => { showProblem(null); if (!policy) begin(); else if (photo) request(); });
  listenToCamera(take, fail);
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey($("key").value);
    if (photo) request(); else { showProblem(null); setState("empty"); }
  });
  addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take(event.dataTransfer.files[0]);
  });
}

listen();
begin();
