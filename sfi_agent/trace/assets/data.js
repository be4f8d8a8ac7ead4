// A turn as the page uses it: what came so far, the memories decoded.

const FULL = 15;  // level of a bin whose every position is held

class Turn {
  constructor() {
    this.about = {};
    this.prompt = [];
    this.tokens = [];
    this.steps = [];
    this.memories = [];
    this.frames = [];  // Uint8Array [layers, heads, bins] of each memory
    this.rows = [];    // of each memory, its average at the width of the latest history
    this.places = new Map();  // number of a step -> its place in steps
  }

  // Add what came: a turn of the trace, or the rest of one.
  async take(more) {
    const { prompt = [], tokens = [], steps = [], memories = [], ...about } = more;
    const frames = await Promise.all(memories.map((memory) => unpacked(memory.levels)));
    Object.assign(this.about, about);
    if (prompt.length) this.prompt = prompt;
    for (const step of steps) {
      this.places.set(step.number, this.steps.length);
      this.steps.push(step);
    }
    this.tokens.push(...tokens);
    this.memories.push(...memories);
    this.frames.push(...frames);
  }

  // Place of the step that proposed or gave a token; -1: the reading of the prompt.
  stepOf(index) {
    const token = this.tokens[index];
    if (!token) return -1;
    const pass = this.places.get(token.step) ?? -1;
    if (token.mark !== "accepted" || pass < 0) return pass;
    let first = index;
    while (first > 0 && this.tokens[first - 1].step === token.step) first -= 1;
    return Math.max(0, pass - (this.steps[pass].tokens - 1) + index - first);
  }

  // The first token that a step or a later one gave.
  tokenOf(place) {
    const number = this.steps[place].number;
    const found = this.tokens.findIndex((token, index) => token.step >= number && this.stepOf(index) >= place);
    return found < 0 ? this.tokens.length - 1 : found;
  }

  // Place of the memory that a step read, or would have read: the latest that is not younger; -1: none.
  memoryOf(place) {
    const number = place < 0 ? 0 : this.steps[place].number;
    let low = 0, high = this.memories.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.memories[middle].step <= number) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  // Tokens of the context: the last position that anything read, and one more.
  get length() {
    const read = this.steps.reduce((most, step) => Math.max(most, step.position + 1), 0);
    return Math.max(this.about.prompt_tokens ?? 0, this.prompt.length, read, 1);
  }

  // The text at some positions of the context.
  textAt(first, stop) {
    const known = this.prompt.length || this.about.prompt_tokens || 0;
    const told = [];
    for (let place = first; place < stop; place += 1)
      told.push(place < known ? this.prompt[place] ?? "" : this.tokens[place - known]?.text ?? "");
    return told.join("");
  }

  // Uint8Array [steps, bins]: what each step read, averaged over layers and heads; a slow step as the one before.
  history() {
    const width = this.memories.reduce((most, memory) => Math.max(most, memory.width), 1);
    const bins = Math.ceil(this.length / width);
    const image = new Uint8Array(this.steps.length * bins);
    if (this.width !== width) this.rows = [];
    this.width = width;
    this.steps.forEach((step, place) => {
      const index = this.memoryOf(place), memory = this.memories[index];
      if (!memory) return;
      this.rows[index] ??= averaged(memory, this.frames[index], width);
      const at = image.subarray(place * bins, (place + 1) * bins);
      at.set(this.rows[index].subarray(0, bins));
      at.fill(FULL, Math.floor(memory.length / width), Math.ceil((step.position + 1) / width));  // recent
    });
    return { image, bins, width };
  }
}

// One row of bins of a common width, as far as the memory goes, from its rows of its own width.
function averaged(memory, frame, width) {
  const own = Math.ceil(memory.length / memory.width), rows = frame.length / own, ratio = width / memory.width;
  const row = new Uint8Array(Math.ceil(own / ratio));
  for (let bin = 0; bin < row.length; bin += 1) {
    const stop = Math.min(own, (bin + 1) * ratio);
    let sum = 0;
    for (let line = 0; line < rows; line += 1)
      for (let place = bin * ratio; place < stop; place += 1) sum += frame[line * own + place];
    row[bin] = Math.ceil(sum / (rows * (stop - bin * ratio)));
  }
  return row;
}

async function unpacked(levels) {
  const bytes = Uint8Array.from(atob(levels), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
