// What a turn was and cost, in a few words and figures.

function label(turn) {
  const where = [turn.runtime, turn.session].filter(Boolean).map(visible).map((name) => name.slice(0, 24)).join(" · ");
  return `${where} · turn ${turn.turn}`;
}

// Fill the choice of turns; hidden where there is one.
function offer(box, labels, chosen) {
  const select = box.querySelector("select");
  select.replaceChildren(...labels.map((text, value) => {
    const option = element("option", "", text);
    option.value = value;
    option.selected = value === chosen;
    return option;
  }));
  box.hidden = labels.length < 2;
}

function about(box, trace, turn) {
  const { mode, policy = {}, prompt_tokens: prompt = 0, reused_tokens: reused = 0 } = turn.about;
  const told = [trace.model, mode && `mode ${mode}`];
  if (mode && mode !== "dense")
    told.push(`selector ${policy.selector}`, `budget ${policy.budget < 1 ? `${+(100 * policy.budget).toFixed(1)}%` : policy.budget}`,
      policy.boundaries?.length && `boundaries ${policy.boundaries.join(", ")}`);
  told.push(prompt && `${prompt.toLocaleString("en")} prompt tokens${reused ? `, ${reused.toLocaleString("en")} reused` : ""}`);
  box.textContent = told.filter(Boolean).map(visible).join(" · ");
}

const median = (values) => [...values].sort((one, other) => one - other)[Math.floor((values.length - 1) / 2)];

function figures(box, turn) {
  const { finish_reason: reason, cost = {}, read = 0, prompt_tokens: prompt = 0 } = turn.about;
  const fast = turn.steps.filter((step) => step.fast), slow = turn.steps.filter((step) => !step.fast);
  const seconds = (steps) => (steps.length ? milliseconds(median(steps.map((step) => step.seconds))) : "–");
  const shown = [["Tokens", turn.tokens.length, reason || (read < prompt ? `reading, ${read} of ${prompt}` : "running")]];
  shown.push(["Slow / fast steps", `${slow.length} / ${fast.length}`, ""]);
  if (cost.kv_read_fraction !== undefined) shown.push(["KV bytes read", percent(cost.kv_read_fraction), "of dense"]);
  shown.push(["Fast (median)", seconds(fast), ""], ["Slow (median)", seconds(slow), ""]);
  if (cost.drafted) shown.push(["Drafts accepted", percent(cost.accepted / cost.drafted), `of ${cost.drafted}`]);
  if (cost.first_token_seconds) shown.push(["First token", `${cost.first_token_seconds.toFixed(2)} s`, ""]);
  box.replaceChildren(...shown.map(([name, value, note]) => {
    const card = element("div"), told = element("dd", "", value);
    if (note) told.append(" ", element("small", "", note));
    card.append(element("dt", "", name), told);
    return card;
  }));
}
