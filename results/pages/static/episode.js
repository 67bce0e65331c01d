// One episode: its film, its actions, its result.
"use strict";
(() => {
  const { element } = vlarig;
  const byId = (id) => document.getElementById(id);
  let rendered = "";

  const facts = (pairs) => element("dl", { class: "facts" }, ...pairs.filter(([, text]) => text !== null && text !== undefined && text !== "")
    .map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));

  const table = (label, caption, heads, rows) => element("div", { class: "wide", role: "region", "aria-label": `${label}, table`, tabindex: 0 },
    element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows.map(([first, ...others]) => element("tr", {}, element("th", { scope: "row" }, first), ...others.map((text) => element("td", {}, text)))))));

  // The first steps of the chunks, of runs of chunks that executed equally many steps.
  const chunkStarts = (chunks) => {
    const begins = [];
    let step = 0;
    for (const [steps, count] of chunks) for (let index = 0; index < count; index += 1) { begins.push(step); step += steps; }
    return begins;
  };

  const yes = (value) => (value === null ? "not seen: the episode ended on success" : value ? "yes" : "no");

  const renderResult = (episode) => {
    const digest = (text) => element("code", {}, text);
    const spent = Object.entries(episode.seconds).filter(([name]) => name !== "total").map(([name, value]) => `${name} ${value.toFixed(2)} s`);
    byId("result").replaceChildren(facts([
      ["outcome", vlarig.outcome(episode.outcome)],
      ["success at any step", yes(episode.first)],
      ["success at the end", yes(episode.final)],
      ["longest success", episode.held === null ? yes(null) : `${episode.held} steps`],
      ["steps", vlarig.count(episode.steps)],
      ["moves of the simulator", vlarig.count(episode.primitives)],
      ["chunks", vlarig.count(chunkStarts(episode.chunks).length)],
      ["reward", typeof episode.reward === "number" ? vlarig.digits(episode.reward) : episode.reward],
      ...Object.entries(episode.metrics).map(([name, value]) => [name, typeof value === "number" ? vlarig.digits(value) : value]),
      ["seconds", `${(episode.seconds.total || 0).toFixed(2)} s: ${spent.join(", ")}`],
      ["worker", episode.worker],
      ["written", episode.written],
      ["digest of the states", digest(episode.state_digest)],
      ["digest of the images", episode.image_digest ? digest(episode.image_digest) : "none: the policy was shown no images"],
    ]));
  };

  const renderAttempts = (attempts) => {
    byId("attempts-section").hidden = !attempts.length;
    byId("attempts").replaceChildren(table("Failed attempts", "Attempts that failed for reasons that are not the policy's", ["Number", "Kind", "Message", "Worker", "Host", "When", "Given up"],
      attempts.map((each) => [String(each.number), each.kind, each.message, each.worker, each.host, each.written, each.gave_up ? "yes" : "no"])));
  };

  // The slider is where all meets: the film, the curves and the numbers of a step.
  const renderActions = (run, task, key, episode, channels, values) => {
    const chunks = chunkStarts(episode.chunks);
    const slider = element("input", { type: "range", id: "step", min: 0, max: episode.steps, value: 0, step: 1 });
    const output = element("output", { for: "step" });
    const chunkOf = (step) => chunks.findLastIndex((first) => first <= step);
    let follow = () => {};
    const update = (step) => {
      slider.value = step;
      for (const mark of marks) mark(step);
      if (step >= episode.steps) { output.textContent = `after step ${episode.steps}: the end`; return; }
      const chunk = chunkOf(step);
      const fresh = chunks[chunk] === step ? ", new" : "";
      const numbers = channels.map((channel, index) => `${channel.name} ${vlarig.digits(values[index][step])}`).join(", ");
      output.textContent = `before step ${step + 1} of ${episode.steps}, chunk ${chunk + 1} of ${chunks.length}${fresh}: ${numbers}`;
    };
    const seek = (step) => { const wanted = Math.min(Math.max(step, 0), episode.steps); follow(wanted); update(wanted); };
    byId("plots").replaceChildren();
    byId("plots").className = "plots";
    const marks = values.map((numbers, index) => vlarig.plot(byId("plots"), channels[index], numbers, chunks, seek));
    const go = (text, target) => {
      const button = element("button", { type: "button" }, text);
      button.addEventListener("click", () => seek(target(Number(slider.value))));
      return button;
    };
    slider.addEventListener("input", () => seek(Number(slider.value)));
    byId("scrubber").replaceChildren(element("div", { class: "scrubber" },
      element("label", { for: "step" }, "Step"), slider, output,
      element("div", { class: "film-buttons" },
        go("Previous chunk", (step) => chunks.findLast((first) => first < step) ?? 0), go("Back one step", (step) => step - 1),
        go("On one step", (step) => step + 1), go("Next chunk", (step) => chunks.find((first) => first > step) ?? episode.steps))));
    renderFilm(run, key, task, episode, chunks, update, (player) => { follow = player; });
    update(0);
    renderTable(channels, values, chunks);
  };

  const renderFilm = (run, key, task, episode, chunks, update, use) => {
    const place = byId("film");
    if (!episode.film) {
      place.replaceChildren(element("p", {}, "This site has no film of the episode. Where the run is, this makes one: ", element("code", {}, `vlarig runs replay ${run.name} ${key}`)));
      return;
    }
    use(vlarig.film(place, episode.film, episode.poster, `Film of ${task.label}, ${episode.outcome}`, episode.steps, chunks, update).seek);
  };

  const renderTable = (channels, values, chunks) => {
    const details = byId("actions-details");
    const begins = new Set(chunks);
    details.open = false;
    byId("actions-table").replaceChildren();
    details.ontoggle = () => {
      if (!details.open || byId("actions-table").hasChildNodes()) return;
      const rows = (values[0] || []).map((_, step) => [String(step + 1), begins.has(step) ? "new" : "", ...values.map((numbers) => vlarig.digits(numbers[step]))]);
      byId("actions-table").append(table("Actions", "The steps that were executed, with three digits", ["Step", "Chunk", ...channels.map((channel) => (channel.unit ? `${channel.name} (${channel.unit})` : channel.name))], rows));
    };
  };

  const renderNeighbours = (run, task, list, index, key) => {
    const link = (text, to) => (to === undefined || to < 0 || to >= list.initial_state.length ? null
      : element("a", { href: vlarig.episodeLink(run.id, `${key}/${list.initial_state[to]}/${list.repeat[to]}`) }, text));
    const failed = (step) => {
      for (let to = index + step; to >= 0 && to < list.initial_state.length; to += step) if (list.outcome[to] === 0) return to;
      return undefined;
    };
    byId("neighbours").replaceChildren(...[
      link("Previous episode", index - 1), link("Next episode", index + 1),
      link("Previous failure", failed(-1)), link("Next failure", failed(1)),
    ].filter(Boolean));
  };

  const renderElsewhere = (runs, run, taskKey, key) => {
    const others = runs.filter((other) => other.id !== run.id && other.tasks.includes(taskKey));
    byId("elsewhere").hidden = !others.length;
    byId("elsewhere").replaceChildren("The same episode in", ...others.map((other) => element("a", { href: vlarig.episodeLink(other.id, key) }, other.name)));
  };

  const find = async (id, words) => {
    const run = await vlarig.load(`data/${id}/run.js`);
    const taskKey = words.slice(0, 4).join("/");
    const number = run.tasks.findIndex((task) => vlarig.taskKey(task) === taskKey);
    if (number < 0) throw new Error(`${run.name} has no task ${taskKey}`);
    const list = await vlarig.load(`data/${id}/task-${number}.js`);
    const [state, repeat] = words.slice(4).map(Number);
    const index = list.initial_state.findIndex((each, place) => each === state && list.repeat[place] === repeat);
    if (index < 0) throw new Error(`${run.name} has no result of ${words.join("/")}`);
    const chunk = await vlarig.load(`data/${id}/task-${number}-${Math.floor(index / run.chunk)}.js`);
    return { run, task: run.tasks[number], number, taskKey, list, index, episode: chunk[words.join("/")] };
  };

  // A run that is being written, or a site that is being replaced, may change between the list and the episode.
  const findWhole = async (id, words) => {
    for (let time = 0; time < 3; time += 1) {
      const found = await find(id, words);
      if (found.episode) return found;
      vlarig.forget();
    }
    throw new Error("the run changes all the time; load the page again");
  };

  const render = async () => {
    const { run: id, words } = vlarig.place();
    const here = `${id}/${words.join("/")}`;
    if (here === rendered) return; // a finished episode does not change
    try {
      if (!id || words.length !== 6) throw new Error("the address names no episode");
      const found = await findWhole(id, words);
      await show(found, words.join("/"));
      vlarig.problem("");
      rendered = found.episode.outcome === "error" ? "" : here;
    } catch (error) {
      vlarig.problem(`This episode cannot be shown: ${error.message}. Start from the first page.`);
    }
  };

  const show = async ({ run, task, number, taskKey, list, index, episode }, key) => {
    const shown = `initial state ${list.initial_state[index]}${list.repeat[index] ? `, repeat ${list.repeat[index]}` : ""}`;
    vlarig.title(`${task.label}, ${shown}`);
    vlarig.crumbs([run.name, run.page], [task.label, vlarig.taskLink(run.id, number)], [shown]);
    byId("lead").replaceChildren(vlarig.outcome(episode.outcome), ` – ${run.policy}. `, element("code", {}, ...vlarig.breakable(key)));
    vlarig.instruction(episode.instruction);
    renderNeighbours(run, task, list, index, taskKey);
    renderElsewhere(await vlarig.load("shared/runs.js"), run, taskKey, key);
    renderAttempts(episode.attempts);
    const finished = episode.outcome !== "error";
    byId("film-section").hidden = byId("actions-section").hidden = !finished;
    if (!finished) {
      byId("result").replaceChildren(element("p", {}, "The episode was given up after its attempts failed for reasons that are not the policy's. It has no result and is no part of any rate; resume the run to try it again."));
      return;
    }
    renderResult(episode);
    const values = await vlarig.unpack(episode.actions);
    const known = run.channels[task.suite];
    const channels = values.map((_, channel) => known?.[channel] ?? { name: `channel ${channel + 1}`, unit: "" });
    renderActions(run, task, key, episode, channels, values);
  };

  render();
  window.addEventListener("hashchange", render);
  document.addEventListener("vlarig:changed", render);
})();
