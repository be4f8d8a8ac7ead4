// Puts the page together: which turn, which token, which theme, and for a live page what is new.

const by = (id) => document.getElementById(id);
const read = (id) => JSON.parse(by(id).textContent);
const COLOURS = ["panel", "line", "ink", "soft", "none", "held", "fast", "slow", "accepted", "corrected", "prompt"];
const POLL = 400;  // milliseconds

const trace = read("trace");
const answer = new Answer(by("answer"), by("legend"));
const charts = new Charts();
let turn = new Turn();
let at = -1;          // the token that was chosen
let shown = -1;       // the memory that the strip shows
let following = true; // a live page: look at the newest
let playing = null;
let colours = {};     // of the theme

function themeColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  colours = themeColours();
  charts.paint(colours);
  if (turn.steps.length) charts.fill(turn, colours);
}

function otherTheme() {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
}

// Look at a token for as long as the pointer is there, or (chosen) until another is chosen.
function look(index, chosen = true) {
  if (!turn.tokens.length) return;
  index = Math.max(0, Math.min(index, turn.tokens.length - 1));
  if (chosen) {
    at = index;
    answer.select(index);
  }
  describe(by("detail"), turn, index);
  showStep(turn.stepOf(index));
}

function showStep(place) {
  charts.mark(place);
  shown = turn.memoryOf(place);
  charts.show(shown);
  by("memory-note").textContent = memoryNote(turn, place, shown);
  under(null);
}

function lookBack() {
  if (at >= 0) look(at);
}

function memoryNote(turn, place, index) {
  const memory = turn.memories[index], step = turn.steps[place];
  if (!memory && turn.about.mode === "dense") return "Dense decoding reads the whole context at every step.";
  if (!memory && turn.memories.length) return "No positions have been chosen yet: this step reads all of the context.";
  if (!memory) return "No positions were chosen: every step reads all of the context.";
  const many = `${Math.round(memory.chosen).toLocaleString("en")} of ${memory.length.toLocaleString("en")} positions`;
  const chose = memory.seconds === null
    ? `Step ${memory.step + 1} chose ${many} for each KV head`
    : `Refreshed before step ${memory.step + 1}: ${many} for each KV head, in ${milliseconds(memory.seconds)}`;
  const slow = step && !step.fast ? " The step looked at is slow: it read everything." : "";
  return `${chose}, beside the first ${memory.sink} and those from ${memory.tail.toLocaleString("en")} on.${slow}`;
}

// What lies below the pointer in the strip.
function under(x, y) {
  const box = by("under"), memory = turn.memories[shown];
  const idle = "Point at the strip to read the context there. The dotted line is the end of the prompt.";
  if (x === null || !memory || x < 0 || x >= memory.length) return void (box.textContent = memory ? idle : "");
  const bin = Math.floor(x / memory.width), first = bin * memory.width;
  const stop = Math.min(first + memory.width, memory.length), bins = Math.ceil(memory.length / memory.width);
  const rows = memory.layers.length * memory.heads.length;
  const row = Math.max(0, Math.min(Math.floor(y), rows - 1));
  const level = turn.frames[shown][row * bins + bin];
  const layers = memory.layers[Math.floor(row / memory.heads.length)], heads = memory.heads[row % memory.heads.length];
  const where = stop - first > 1 ? `Positions ${first}–${stop - 1}` : `Position ${first}`;
  box.replaceChildren(
    `${where}, layers ${layers}, KV head ${heads}: ${level ? `about ${percent(level / FULL)} held` : "not held"}. `,
    element("q", "", visible(turn.textAt(first, stop))),
  );
}

function hear(name, x, y, chosen) {
  if (x === null) return lookBack();
  if (name === "strip") return under(x, y);
  const place = Math.floor(name === "history" ? y : x);
  if (place < 0 || place >= turn.steps.length) return;
  const index = turn.tokenOf(place);
  if (chosen) following = false;
  look(index, chosen);
  showStep(place);
}

function nextSlow() {
  const found = turn.tokens.findIndex((token, index) => index > at && turn.steps[turn.stepOf(index)]?.fast === false);
  look(found < 0 ? 0 : found);
}

function play() {
  if (playing) {
    clearInterval(playing);
    playing = null;
    return;
  }
  if (at >= turn.tokens.length - 1) look(0);
  playing = setInterval(() => (at < turn.tokens.length - 1 ? look(at + 1) : play()), 90);
}

const KEYS = {
  ArrowRight: () => look(at + 1), ArrowDown: () => look(at + 16), PageDown: () => look(at + 64),
  ArrowLeft: () => look(at - 1), ArrowUp: () => look(at - 16), PageUp: () => look(at - 64),
  Home: () => look(0), End: () => look(turn.tokens.length - 1), s: nextSlow, " ": play, t: otherTheme,
};

function listen() {
  by("theme").addEventListener("click", otherTheme);
  document.addEventListener("keydown", (event) => {
    const act = KEYS[event.key], taken = event.target.closest(event.key === " " ? "select, button" : "select");
    if (!act || taken || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    following = event.key === "End";
    act();
  });
  const indexOf = (event) => event.target.closest?.("#answer .t")?.dataset.index;
  by("answer").addEventListener("click", (event) => {
    if (indexOf(event) === undefined) return;
    following = false;
    look(Number(indexOf(event)));
  });
  by("answer").addEventListener("pointerover", (event) => {
    if (indexOf(event) !== undefined) look(Number(indexOf(event)), false);
  });
  by("answer").addEventListener("pointerleave", lookBack);
  by("turns").querySelector("select").addEventListener("change", (event) => {
    following = false;
    open(Number(event.target.value));
  });
}

function show() {
  answer.fill(turn);
  figures(by("figures"), turn);
  about(by("about"), trace, turn);
  charts.fill(turn, colours);
  look(following || at < 0 ? turn.tokens.length - 1 : at);
  if (turn.tokens.length) return;
  showStep(-1);
  if (trace.live && turn.about.finish_reason)
    by("detail").textContent = "No tokens came with this turn: start the runtime with `sfi-agent bus --details`.";
}

let source = null;

async function open(index) {
  at = trace.live ? -1 : Math.max(0, Number(location.hash.slice(1)) - 1 || 0);  // page.html#41: its 41st token
  turn = new Turn();
  answer.clear();
  source = index;
  if (!trace.live) await turn.take(trace.turns[index] ?? {});
  show();
}

await charts.embed(read("charts"), hear);
setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
listen();
if (trace.live) await follow();
else {
  following = false;
  offer(by("turns"), trace.turns.map(label), trace.turns.length - 1);
  await open(trace.turns.length - 1);
}
document.documentElement.dataset.ready = "yes";
