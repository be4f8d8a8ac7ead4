// The answer's tokens, the legend, and sentences about a token.

const MARKS = {
  prompt: "from reading the prompt",
  fast: "fast step",
  slow: "slow step",
  accepted: "drafted and accepted",
  corrected: "corrected by the slow step",
};

// What cannot be seen, or would reorder the line, by its number; the page never reads text as HTML.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

function visible(text) {
  return text.replace(UNSEEN, (found) => `[${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function tokenElement(token, index) {
  const classes = ["t", token.mark];
  if (token.boundary) classes.push("bound");
  if (token.text.startsWith("\n")) classes.push("line");
  const made = element("span", classes.join(" "), visible(token.text));
  made.dataset.index = index;
  return made;
}

class Answer {
  constructor(box, legend) {
    this.box = box;
    this.legend = legend;
    this.shown = [];
    this.at = null;
  }

  clear() {
    this.box.replaceChildren();
    this.shown = [];
    this.at = null;
  }

  // Add elements for the tokens that have none.
  fill(turn) {
    const added = turn.tokens.slice(this.shown.length).map((token, index) =>
      tokenElement(token, this.shown.length + index));
    this.box.append(...added);
    this.shown.push(...added);
    this.count(turn.tokens);
  }

  count(tokens) {
    const counts = {};
    for (const token of tokens) counts[token.mark] = (counts[token.mark] ?? 0) + 1;
    const items = Object.keys(MARKS).filter((mark) => counts[mark]).map((mark) => {
      const item = element("li");
      item.dataset.mark = mark;
      item.append(element("span", `t ${mark}`, MARKS[mark]), " ", element("b", "", counts[mark]));
      return item;
    });
    const boundaries = tokens.filter((token) => token.boundary).length;
    if (boundaries) {
      const item = element("li", "");
      item.dataset.mark = "boundary";
      item.append(element("span", "bound", "boundary "), element("b", "", boundaries));
      items.push(item);
    }
    this.legend.replaceChildren(...items);
  }

  select(index) {
    this.at?.classList.remove("at");
    this.at = this.shown[index] ?? null;
    if (!this.at) return;
    this.at.classList.add("at");
    const box = this.box.getBoundingClientRect(), place = this.at.getBoundingClientRect();
    if (place.top < box.top || place.bottom > box.bottom)
      this.box.scrollTop += place.top - box.top - box.height / 2;
  }
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
const milliseconds = (seconds) => `${(1000 * seconds).toFixed(seconds < 0.01 ? 2 : 1)} ms`;

function shareOf(step) {
  return step.dense ? step.read / step.dense : 0;
}

// Puts into a box what is known of a token.
function describe(box, turn, index) {
  const token = turn.tokens[index];
  if (!token) return box.replaceChildren();
  const place = turn.stepOf(index), step = turn.steps[place];
  const told = [element("b", "", `Token ${index + 1}`), " ", element("q", "", visible(token.text)), ": "];
  told.push(MARKS[token.mark]);
  if (token.mark === "corrected") told.push(", the draft had ", element("q", "", visible(token.drafted)));
  if (step) {
    const pass = token.mark === "accepted" ? turn.steps[turn.places.get(token.step)] : null;
    const what = step.fast ? "fast step" : "slow step";
    told.push(`. Step ${step.number + 1}, a ${what}: ${milliseconds(step.seconds)}, `);
    told.push(`${percent(shareOf(step))} of dense KV bytes`);
    if (!step.fast && step.tokens > 1) told.push(`, ${step.tokens} tokens at once`);
    if (pass) told.push(`; checked by step ${pass.number + 1} in ${milliseconds(pass.seconds)}`);
  }
  told.push(".");
  if (token.boundary) told.push(" ", element("span", "bound", ""), ` Boundary: ${token.boundary}.`);
  box.replaceChildren(...told);
}
