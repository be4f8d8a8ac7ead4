// A live page: asks for what is new, and keeps the newest turn open unless another was chosen.

async function follow() {
  by("live").hidden = false;
  setTimeout(poll, 0);
}

async function poll() {
  let more = false;
  try {
    more = await ask();
    by("live").className = "on";
    by("live").textContent = "live";
  } catch {
    by("live").className = "off";
    by("live").textContent = "disconnected";
  }
  setTimeout(poll, more ? 0 : POLL);
}

// Take what the open turn has got since; whether there may be more at once.
async function ask() {
  const have = { tokens: turn.tokens.length, steps: turn.steps.length, memories: turn.memories.length };
  const wanted = following ? "" : source ?? "", asking = source;
  const asked = new URLSearchParams({ turn: wanted, open: source ?? "", ...have, prompt: turn.prompt.length });
  const came = await (await fetch(`rest?${asked}`)).json();
  if (came.turn === null) return false;
  if (source !== asking) return true;  // another turn was chosen meanwhile
  trace.model = came.model;
  offer(by("turns"), came.labels, came.turn - came.first);
  for (const option of by("turns").querySelectorAll("option")) option.value = Number(option.value) + came.first;
  if (came.turn !== source) {
    await open(came.turn);
    return true;
  }
  const before = JSON.stringify([turn.about, turn.tokens.length, turn.steps.length]);
  await turn.take(came.rest);
  if (before !== JSON.stringify([turn.about, turn.tokens.length, turn.steps.length])) show();
  return false;
}
