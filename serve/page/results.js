// The operator's view at `/turing/results`: shares beside chance, and every answer as CSV.

import { $, asRefusal, call, make, showProblem, useKey } from "./common.js";
import { drawInterval, percent } from "./interval.js";

const WHAT = {
  real: { released: "Which one is real? A released face beside an untouched one" },
  same: { released: "The same person? Untouched beside released", untouched: "The same person? Both untouched (control)" },
};
const MEASURES = {
  correct: "right answers",
  same_if_same: "said “the same person” of one person",
  same_if_different: "said “the same person” of two people",
};

async function load() {
  showProblem(null);
  try {
    const findings = await (await call("turing/results")).json();
    $("key-form").hidden = true;
    show(findings);
  } catch (error) {
    const refusal = asRefusal(error), locked = refusal.status === 401;
    $("key-form").hidden = !locked;
    if (!locked || $("key").value) showProblem(refusal);
    if (locked) $("key").focus();
  }
}

function show(findings) {
  $("exports").hidden = !findings.length;
  const groups = Map.groupBy(findings, ({ task, condition }) => WHAT[task][condition]);
  const cards = [...groups].map(([title, lines]) => make("section", { className: "card padded" }, make("h2", {}, title), ...lines.map(line)));
  $("findings").replaceChildren(...(cards.length ? cards : [make("p", { className: "note" }, "Nobody has answered yet. Results appear here with the first answer.")]));
}

function line({ task, condition, measure, rate, chance, tests }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "interval");
  svg.setAttribute("role", "img");
  if (rate.trials) drawInterval(svg, rate, chance);
  const size = `${rate.trials} answer${rate.trials === 1 ? "" : "s"} in ${tests} test${tests === 1 ? "" : "s"}`;
  const figure = rate.trials ? `${percent(rate.value)} [${percent(rate.low)}, ${percent(rate.high)}]` : "no answer yet";
  const box = make("div", { className: "finding" }, make("p", {}, make("span", { className: "figure" }, figure), ` ${MEASURES[measure]}; ${size}`));
  if (rate.trials) box.append(svg, make("p", { className: "scale", ariaHidden: "true" }, make("span", {}, "0 %"), make("span", {}, chance === null ? "" : "guessing: 50 %"), make("span", {}, "100 %")));
  if (measure === "correct" && rate.trials) box.append(make("p", { className: "soft" }, verdict(task, condition, rate, chance)));
  return box;
}

/** What the interval says, and what it cannot say. */
function verdict(task, condition, rate, chance) {
  if (rate.low <= chance && chance <= rate.high) {
    const missed = Math.round(100 * Math.max(rate.high - chance, chance - rate.low));
    return `No difference from guessing was found; one of up to ${missed} percentage points may have been missed. More answers narrow it.`;
  }
  if (task === "real") return rate.low > chance ? "Raters tell released faces from real ones more often than guessing would." : "Raters take released faces for real more often than the real ones.";
  if (rate.high < chance) return "Raters are wrong more often than guessing would be.";
  return condition === "untouched" ? "What people can do with nothing changed: compare the released photos with this." : "Raters still tell who it is more often than guessing would.";
}

async function download() {
  showProblem(null);
  try {
    const address = URL.createObjectURL(await (await call("turing/results.csv")).blob());
    make("a", { href: address, download: "visual-turing-test.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  } catch (error) {
    showProblem(asRefusal(error));
  }
}

$("csv").addEventListener("click", download);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  load();
});
load();
