// The charts: Bokeh draws them, this fills and colours them and says where the pointer is.

const NAMES = ["strip", "history", "seconds", "bytes", "agreement"];

class Charts {
  // Have Bokeh draw the charts; hear(name, x, y, chosen) is called for the pointer, and with null when it leaves.
  async embed(items, hear) {
    for (const item of items) await Bokeh.embed.embed_item(item);
    for (const name of NAMES) {
      const plot = this.get(name);
      plot.js_event_callbacks = {
        mousemove: [(event) => hear(name, event.x, event.y, false)],
        tap: [(event) => hear(name, event.x, event.y, true)],
        mouseleave: [() => hear(name, null)],
      };
    }
  }

  get(name) {
    for (const page of Bokeh.documents) {
      const found = page.get_model_by_name(name);
      if (found) return found;
    }
    throw new Error(`no chart has ${name}`);
  }

  // Draw what belongs to all steps of a turn.
  fill(turn, colours) {
    this.turn = turn;
    const steps = turn.steps.length, { image, bins, width } = turn.history();
    this.image("history", image, steps, bins, width);
    this.range("history", turn.length, [Math.max(steps, 1), 0]);
    this.prompt("history");
    const slow = turn.steps.map((step, place) => [step, place + 0.5]).filter(([step]) => !step.fast);
    this.get("history-slow").data = { stop: slow.map(([step]) => step.position + 1), y: slow.map(([, y]) => y) };
    const kinds = turn.steps.map((step) => (step.fast ? colours.fast : colours.slow));
    const markers = turn.steps.map((step) => (step.fast ? "circle" : "square"));
    this.points("seconds", turn.steps.map((step) => 1000 * step.seconds), kinds, markers);
    this.points("bytes", turn.steps.map((step) => 100 * shareOf(step)), kinds, markers);
    this.agreement(turn, colours);
  }

  // Share of the drafted tokens up to here, as far as they were checked, that were accepted.
  agreement(turn, colours) {
    const tried = { accepted: 0, corrected: 0 }, passes = new Map();
    for (const token of turn.tokens) {
      if (!(token.mark in tried)) continue;
      tried[token.mark] += 1;
      passes.set(turn.places.get(token.step), tried.accepted / (tried.accepted + tried.corrected));
    }
    document.getElementById("agreement").hidden = passes.size === 0;
    const places = [...passes.keys()];
    this.get("agreement-data").data = {
      x: places.map((place) => place + 0.5),
      y: places.map((place) => 100 * passes.get(place)),
      colour: places.map(() => colours.accepted),
      marker: places.map(() => "circle"),
    };
    this.range("agreement", Math.max(turn.steps.length, 1), [0, 104]);
  }

  points(name, values, colour, marker) {
    const x = values.map((_, place) => place + 0.5);
    this.get(`${name}-data`).data = { x, y: values, colour, marker };
    const fast = values.filter((_, place) => this.turn.steps[place].fast);
    const slow = values.filter((_, place) => !this.turn.steps[place].fast);
    const most = Math.max(usual(fast), usual(slow), 1e-6);
    this.range(name, Math.max(values.length, 1), [0, 1.15 * most]);
  }

  // Draw one memory: a row for each group of layers and of heads, the first layers at the top.
  show(index) {
    const turn = this.turn, memory = turn.memories[index];
    document.getElementById("strip").hidden = turn.memories.length === 0;
    if (!memory) {
      this.image("strip", new Uint8Array(0), 0, 0, 1);
      return this.range("strip", turn.length, [1, 0]);
    }
    const heads = memory.heads.length, rows = memory.layers.length * heads;
    const bins = Math.ceil(memory.length / memory.width);
    this.image("strip", turn.frames[index], rows, bins, memory.width);
    this.range("strip", turn.length, [rows, 0]);
    this.prompt("strip");
    const axis = this.get("strip").left[0];
    const middles = memory.layers.map((_, group) => (group + 0.5) * heads);
    axis.ticker.ticks = middles;
    axis.major_label_overrides = new Map(memory.layers.map((layers, group) => [middles[group], layers]));
    this.get("strip-groups").ticks = memory.layers.map((_, group) => group * heads);
  }

  // Mark the step that is looked at.
  mark(place) {
    for (const name of NAMES.slice(1)) {
      const span = this.get(`${name}-at`);
      span.location = place + 0.5;
      span.visible = place >= 0;
    }
  }

  image(name, levels, rows, bins, width) {
    const source = this.get(`${name}-data`);
    this.array ??= source.data.image[0].constructor;  // Bokeh's own, of the image that the chart came with
    const shown = rows > 0 && bins > 0 ? new this.array(levels, [rows, bins]) : new this.array([0], [1, 1]);
    source.data = { image: [shown], x: [0], y: [0], dw: [Math.max(1, bins * width)], dh: [Math.max(1, rows)] };
  }

  range(name, across, [bottom, top]) {
    const plot = this.get(name);
    plot.x_range.setv({ start: 0, end: across });
    plot.y_range.setv({ start: bottom, end: top });
  }

  prompt(name) {
    this.get(`${name}-prompt`).location = this.turn.about.prompt_tokens ?? 0;
  }

  // Colour everything that is not data.
  paint(colours) {
    for (const name of NAMES) {
      const plot = this.get(name);
      plot.setv({ background_fill_color: colours.panel, outline_line_color: colours.line });
      for (const axis of [...plot.left, ...plot.below])
        axis.setv({
          axis_label_text_color: colours.soft, major_label_text_color: colours.soft,
          axis_line_color: colours.line, major_tick_line_color: colours.line,
        });
      for (const grid of plot.center) if (grid.type === "Grid") grid.grid_line_color = colours.line;
      this.get(`${name}-at`).line_color = colours.ink;
    }
    this.get("history-lines").line_color = colours.slow;
    for (const name of ["strip", "history"]) {
      this.get(`${name}-colours`).palette = ramp(colours.none, colours.held, FULL + 1);
      this.get(`${name}-prompt`).line_color = colours.soft;
    }
  }
}

// The largest of the values but for one in fifty, which may be far off.
function usual(values) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.ceil(0.98 * (sorted.length - 1))] ?? 0;
}

// So many colours from one to another; the step from the first to the second is the largest, for it counts most.
function ramp(from, to, count) {
  const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const [low, high] = [parts(from), parts(to)];
  return Array.from({ length: count }, (_, level) => {
    const share = level === 0 ? 0 : 0.12 + 0.88 * (level / (count - 1)) ** 0.8;
    const mixed = low.map((part, at) => Math.round(part + share * (high[at] - part)));
    return `#${mixed.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
  });
}
