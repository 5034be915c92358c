// The visual Turing test at `/turing`: one question after another, by mouse, touch or keyboard.

import { $, asRefusal, call, make, showProblem } from "./common.js";
import { drawInterval, percent } from "./interval.js";

const QUESTIONS = { real: "Which one is a real photograph?", same: "Do both show the same person?" };
const SIDES = ["left", "right"];
let test = null; // {test, task, trials}
let number = 0; // of the question shown, from 1
let began = 0; // when its pictures were there
let pictures = []; // object URLs of the question shown
let open = false; // whether an answer is awaited
let retry = begin;

async function begin() {
  await attempt(begin, async () => {
    const { tasks } = await (await call("turing")).json();
    view("offer");
    for (const task of Object.keys(QUESTIONS)) {
      $(`offer-${task}`).hidden = !(task in tasks);
      $(`offer-${task}`).querySelector("button").textContent = `Begin: ${count(tasks[task] ?? 0, "question")}`;
    }
  });
}

async function start(task) {
  await attempt(() => start(task), async () => {
    const body = JSON.stringify({ task });
    test = await (await call("turing/tests", { method: "POST", body, headers: { "Content-Type": "application/json" } })).json();
    await ask(1);
  });
}

async function ask(next) {
  number = next;
  open = false;
  const blobs = await Promise.all(SIDES.map(async (side) => (await call(`turing/tests/${test.test}/pictures/${number}/${side}`)).blob()));
  pictures.forEach((address) => URL.revokeObjectURL(address));
  pictures = blobs.map((blob) => URL.createObjectURL(blob));
  $("question").textContent = QUESTIONS[test.task];
  $("count").textContent = `Question ${number} of ${test.trials}`;
  $("done").max = test.trials;
  $("done").value = number - 1;
  $("pair").replaceChildren(...SIDES.map(pick));
  $("choices").hidden = test.task !== "same";
  view("trial");
  await Promise.all([...$("pair").querySelectorAll("img")].map((image) => image.decode()));
  $("question").focus();
  $("status").textContent = `Question ${number} of ${test.trials}`;
  began = performance.now();
  open = true;
}

/** One picture: a button where the answer is one of the two. */
function pick(side, i) {
  const image = make("img", { src: pictures[i], alt: `${side === "left" ? "Left" : "Right"} photo`, width: 512, height: 512 });
  if (test.task === "same") return make("div", { className: "pick" }, image);
  const button = make("button", { type: "button", className: "pick" }, image, make("span", {}, side === "left" ? "The left one" : "The right one", make("kbd", {}, String(i + 1))));
  button.addEventListener("click", () => answer(side));
  return button;
}

async function answer(choice) {
  if (!open) return;
  open = false;
  const seconds = Math.min(86_400, (performance.now() - began) / 1000);
  await attempt(() => { open = true; return answer(choice); }, async () => {
    try {
      await call(`turing/tests/${test.test}/answers/${number}`, {
        method: "POST", body: JSON.stringify({ answer: choice, seconds }), headers: { "Content-Type": "application/json" },
      });
    } catch (error) {
      if (error.status !== 409) throw error; // it arrived before, and only our answer to that got lost
    }
    await (number < test.trials ? go(number + 1) : finish());
  });
}

/** The next question; where its pictures do not come, trying again asks for them and answers nothing twice. */
const go = (next) => attempt(() => go(next), () => ask(next));

async function finish() {
  const score = await (await call(`turing/tests/${test.test}/score`)).json();
  view("end");
  $("end-score").textContent = `${score.correct} of ${score.trials} right`;
  const guessing = score.low <= score.chance && score.chance <= score.high;
  $("end-words").textContent = guessing
    ? `That is no more than guessing could give: one rater’s interval goes from ${percent(score.low)} to ${percent(score.high)}.`
    : `Guessing gives 50 %. One rater’s interval goes from ${percent(score.low)} to ${percent(score.high)}.`;
  drawInterval($("end-interval"), { value: score.share, low: score.low, high: score.high }, score.chance);
  $("end-title").focus();
}

function view(id) {
  for (const section of ["offer", "trial", "end"]) $(section).hidden = section !== id;
}

/** Runs one step; a refusal is shown, and "try again" repeats `again`, or begins anew where the test is over. */
async function attempt(again, step) {
  showProblem(null);
  try {
    await step();
  } catch (error) {
    const refusal = asRefusal(error);
    const over = refusal.status === 404 || refusal.status === 410;
    retry = over ? begin : again;
    if (over) view("");
    showProblem(refusal);
  }
}

const count = (n, thing) => `${n} ${thing}${n === 1 ? "" : "s"}`;

for (const button of document.querySelectorAll("[data-task]")) button.addEventListener("click", () => start(button.dataset.task));
for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
$("more").addEventListener("click", begin);
$("again").addEventListener("click", () => retry());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !open) return;
  const i = { 1: 0, 2: 1, ArrowLeft: 0, ArrowRight: 1 }[event.key];
  if (i !== undefined) answer(test.task === "real" ? SIDES[i] : ["same", "different"][i]);
});
begin();
