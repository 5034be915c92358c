// The three answers: from a policy and what was released to words and figures. Pure functions.

/** Strength -> what the painter sees of the face. */
const SEEN = new Map([[1, "nothing"], [0.8, "one colour"], [0.6, "2 × 2 patches"], [0.4, "4 × 4 patches"], [0.2, "8 × 8 patches"], [0, "the whole face"]]);

// How an epsilon is commonly read (Ponomareva et al., How to DP-fy ML, 2023): up to 1, up to 10, beyond.
const LEVELS = [{ to: 1, name: "strong", level: "good" }, { to: 10, name: "moderate", level: "warn" }, { to: Infinity, name: "weak", level: "bad" }];

export const seen = (strength) => SEEN.get(strength) ?? `strength ${strength}`;
export const levels = (share) => `${round(share * 255, 3)} of 255`;
export const round = (value, digits) => Number(Number(value).toPrecision(digits)).toString();

/** An attribute's name as a reader writes it. */
export function plain(name) {
  const words = name.replace("5_o_Clock", "5_o’clock").replaceAll("_", " ").toLowerCase();
  return words[0].toUpperCase() + words.slice(1);
}

/** e^epsilon, the factor by which odds may shift, to as many digits as a reader can use. */
export function factor(epsilon) {
  if (epsilon > 20) return `10^${Math.round(epsilon / Math.LN10)}`;
  const value = Math.exp(epsilon);
  return value < 10 ? round(value, 2) : Math.round(value).toLocaleString("en");
}

/** The sliders' stops, each list from least to most private. */
export function stops(policy) {
  const { epsilon, strength, perturbation } = policy, start = starts(policy);
  const tidy = [1, 1.5, 2, 3, 5, 7].flatMap((n) => [-2, -1, 0, 1, 2].map((power) => Number(`${n}e${power}`)));
  const between = tidy.filter((value) => value > epsilon.min && value < epsilon.max);
  const grey = Array.from({ length: Math.floor(perturbation.max * 255 + 1e-6) + 1 }, (_, n) => n / 255);
  return {
    epsilon: unique([epsilon.min, epsilon.max, start.epsilon, ...between]).reverse(),
    strength: unique(strength.allowed),
    perturbation: unique([...grey, start.perturbation, perturbation.max]),
  };
}

/** Where the sliders begin: the server's own settings, as far as it lets a visitor choose them. */
export function starts({ epsilon, strength, perturbation }) {
  return {
    epsilon: Math.min(Math.max(epsilon.default ?? 10, epsilon.min), epsilon.max),
    strength: strength.default,
    perturbation: Math.min(perturbation.default, perturbation.max),
  };
}

/** Sorted, without values that no reader could tell apart. */
function unique(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.filter((value, i) => i === 0 || Math.abs(value - sorted[i - 1]) > 1e-3 * Math.max(1, value) * 0.5);
}

const levelOf = (epsilon) => LEVELS.find(({ to }) => epsilon <= to + 1e-6);

/**
 * Is it private now? `face`: {epsilon, strength, ...} as released; epsilon null stands for no bound. `measured`: what
 * attackers reached on the shipped weights, or {}.
 * @returns {{verdict: string, level: "good"|"warn"|"bad", words: string[]}}
 */
export function isItPrivate(face, measured) {
  if (face.epsilon === null) {
    return { verdict: "No: every attribute is released as it is", level: "bad", words: ["Nothing about the face is protected."] };
  }
  if (face.strength === 0) {
    return { verdict: "No: people stay recognisable", level: "bad", words: ["The painter sees the whole face and changes attributes only, as the paper does. This setting is here for comparison."] };
  }
  if (face.strength < 1) {
    return { verdict: `Not by any guarantee: the painter sees ${seen(face.strength)} of the face`, level: "bad", words: ["What it sees may show in the result."] };
  }
  const loose = levelOf(face.epsilon).name === "weak", region = face.region ?? "face";
  return {
    verdict: `The ${region} is${loose ? ", loosely" : ""}. What surrounds it is not`,
    level: "warn",
    words: [`The ${region} is painted anew by a network that sees nothing of it. ${region === "head" ? "Clothes" : "Hair, clothes"} and background stay the person’s own: whoever knows them may know the photo.`, ...found(measured, region)],
  };
}

/** What was measured on releases of that region, with its 95 % intervals. */
function found({ recogniser_names: face, retrained_names: retrained, people, named_of: searched, faces, epsilon, region: painted }, region) {
  if (!face || !retrained || painted !== region) return [];
  const share = (value) => `${round(100 * value, 2)}\u00a0%`;
  const within = ({ released, interval: [low, high] }) => `${share(released)} [${round(100 * low, 2)},\u00a0${round(100 * high, 2)}]`;
  return [`Measured at epsilon ${epsilon} on ${faces.toLocaleString("en")} faces of ${people} people: a face recogniser still names ${within(face)} of ${searched} of them (untouched ${share(face.untouched)}, guessing ${share(face.chance)}); one retrained on such releases, ${within(retrained)}.`];
}

/**
 * How private?
 * @returns {{verdict: string, level: string, figures: [string, string][], words: string[]}}
 */
export function howPrivate(face) {
  if (face.epsilon === null) return { verdict: "Not at all", level: "bad", figures: [["∞", "epsilon"]], words: [] };
  const { name, level } = levelOf(face.epsilon), whole = face.strength === 1;
  const figures = [[round(face.epsilon, 3), "epsilon"], [`× ${factor(face.epsilon)}`, whole ? "most that odds can shift" : "most, by the attributes alone"]];
  if (face.faces > 1) figures.splice(1, 0, [round(face.photo_epsilon, 3), `epsilon of all ${face.faces} faces together`]);
  if (face.t !== null && face.t !== undefined) figures.push([face.t.toFixed(2), "t, distance from the population"]);
  const covered = whole ? `the 40 attributes, and every pixel of the painted ${face.region ?? "face"}` : "the 40 attributes only, none of the pixels";
  const around = face.region === "head" ? "long hair, neck, clothes and background" : "hair, ears, clothes and background";
  const open = [around, "the pose", "other photos of the person"];
  const kept = (face.kept ?? []).map(plain);
  if (kept.length) open.unshift(`attributes kept as they are (${kept.join(", ")})`);
  return {
    verdict: whole ? `A ${name} promise about the face` : `A ${name} promise about attributes, none about pixels`,
    level: whole ? level : "bad",
    figures,
    words: [
      whole
        ? "Whoever sees the release can shift the odds between two faces that could stand there by that factor at most, whatever they knew before."
        : "The list of released attributes shifts the odds between two faces by that factor at most. The picture itself may tell far more.",
      ...(face.faces > 1 ? [`That is for each face. Whoever stands in the photo more than once, or beside a relative, is covered by the sum over all ${face.faces} faces alone: odds shift by × ${factor(face.photo_epsilon)} at most.`] : []),
      `Covers ${covered}. Does not cover ${open.join(", ")}.`,
    ],
  };
}

/**
 * Can it be more private?
 * @returns {{verdict: string, level: string, steps: {control: string, value: number, label: string, gain: string}[], words: string[]}}
 */
export function more(face, policy) {
  const steps = [], { min } = policy.epsilon, most = Math.max(...policy.strength.allowed);
  if (face.strength < most) {
    steps.push({ control: "strength", value: most, label: `See ${seen(most)}`, gain: most === 1 ? "Epsilon then covers the face’s pixels too." : "Less of the face can show in the result." });
  }
  const current = face.epsilon ?? Infinity;
  const goal = LEVELS.map(({ to }) => to).filter((to) => to < current - 1e-6 && to >= min).at(-1) ?? min;
  if (goal < current - 1e-6) {
    const promise = levelOf(goal).name !== levelOf(current).name ? `A ${levelOf(goal).name} promise: odds` : "Odds";
    const by = face.strength === 1 ? "" : ", by the attributes";
    steps.push({ control: "epsilon", value: goal, label: `Epsilon ${round(goal, 3)}`, gain: `${promise} shift by at most × ${factor(goal)}${by}. The new face follows the old one less.` });
  }
  if (face.perturbation < policy.perturbation.max - 1e-4) {
    steps.push({ control: "perturbation", value: policy.perturbation.max, label: `Disturb by ${round(policy.perturbation.max * 255, 3)}`, gain: "Harder to read for the programs it was made against; may show as a faint texture." });
  }
  const wider = face.region === "head" ? "" : " Hair and ears go where the server paints the whole head (synthesize.region=head).";
  const rest = `No slider changes the surroundings: crop them, or choose a photo without them.${wider} Publish few photos of one person.`;
  const verdict = ["No further by settings: all are at this server’s limit", "Yes, in one step", "Yes, in two steps", "Yes, in three steps"][steps.length];
  return { verdict, level: steps.length ? "good" : "warn", steps, words: [rest] };
}
