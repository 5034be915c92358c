// What all pages share: calls to the service, its refusals, and small helpers for the DOM.

export const $ = (id) => document.getElementById(id);

/** An element with text or children; `of` sets its properties. */
export function make(tag, of = {}, ...children) {
  const element = Object.assign(document.createElement(tag), of);
  element.append(...children);
  return element;
}

// The pages may stand behind a proxy below some path: addresses are relative to this file's.
const root = new URL("../v1/", import.meta.url);
let key = "";

/** The API key, in this tab's memory alone. */
export const useKey = (text) => { key = text.trim(); };

/** A refusal of the service in its own words (RFC 9457), or of the network in ours. */
export class Refusal extends Error {
  constructor({ title, detail = "", remedy = "", status = 0 }) {
    super(title);
    Object.assign(this, { title, detail, remedy, status });
  }
}

/** Calls `/v1/PATH`; the answer if it is a good one, or a Refusal. */
export async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let answer;
  try {
    answer = await fetch(new URL(path, root), { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({
      title: "The service does not answer",
      detail: "The connection failed before an answer came. Nothing was released.",
      remedy: "Check that you are online and that the service runs, then try again.",
    });
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const wait = answer.headers.get("Retry-After");
  if (answer.status === 401) problem.remedy = key ? "Check the key." : "Enter the key above.";
  throw new Refusal({
    title: problem.title ?? `The service refused (${answer.status})`,
    detail: typeof problem.detail === "string" ? problem.detail : "",
    remedy: wait ? `Try again in ${wait === "1" ? "a second" : `${wait} seconds`}.` : problem.remedy ?? "Try again; if it stays so, tell the operator.",
    status: answer.status,
  });
}

/** Shows a refusal in the element `id` (with -title, -detail and -remedy inside), or hides it. */
export function showProblem(refusal, id = "problem") {
  $(id).hidden = !refusal;
  for (const part of ["title", "detail", "remedy"]) {
    $(`${id}-${part}`).textContent = sentence(refusal?.[part] ?? "");
    $(`${id}-${part}`).hidden = !refusal?.[part];
  }
  if (refusal) $(id).scrollIntoView({ block: "nearest" });
}

/** The service speaks in clauses; a page in sentences. */
const sentence = (text) => text && text[0].toUpperCase() + text.slice(1);

/** Anything thrown, as a Refusal. A fault of this page must not leave a visitor before a bar that never ends. */
export function asRefusal(error) {
  if (error instanceof Refusal) return error;
  console.error(error);
  return new Refusal({ title: "This page failed", detail: String(error?.message ?? error), remedy: "Reload it and try again." });
}
