// The episodes of one task of a run.
"use strict";
(() => {
  const { element } = vlarig;
  const byId = (id) => document.getElementById(id);
  let listing = null;
  let shownFor = "";

  const rowsOf = (data) => data.initial_state.map((state, index) => ({
    initial_state: state, repeat: data.repeat[index], outcome: data.outcome[index], steps: data.steps[index], seconds: data.seconds[index],
    failed: data.failed[index], film: data.film[index], instruction: data.instructions[data.instruction[index]],
  }));

  const columnsFor = (run, task, repeats) => {
    const key = vlarig.taskKey(task);
    const link = (row) => element("a", { href: vlarig.episodeLink(run.id, `${key}/${row.initial_state}/${row.repeat}`) }, String(row.initial_state));
    const without = (row, text) => (row.outcome === 2 ? "–" : text);
    return [
      { name: "initial_state", heading: "Initial state", number: true, value: (row) => row.initial_state, cell: link },
      ...(repeats ? [{ name: "repeat", heading: "Repeat", number: true, value: (row) => row.repeat, cell: (row) => String(row.repeat) }] : []),
      { name: "outcome", heading: "Outcome", value: (row) => run.outcomes[row.outcome], cell: (row) => vlarig.outcome(run.outcomes[row.outcome]) },
      { name: "steps", heading: "Steps", number: true, value: (row) => row.steps, cell: (row) => without(row, String(row.steps)) },
      { name: "seconds", heading: "Seconds", number: true, value: (row) => row.seconds, cell: (row) => without(row, row.seconds.toFixed(1)) },
      { name: "failed", heading: "Failed attempts", number: true, value: (row) => row.failed, cell: (row) => String(row.failed) },
      { name: "film", heading: "Film", value: (row) => -row.film, cell: (row) => (row.film ? "film" : "–") },
    ];
  };

  // The films of the episodes that are listed, each with its poster, which shows how it ended.
  const renderFilms = (run, number, task, rows) => {
    const filmed = rows.filter((row) => row.film);
    byId("films-section").hidden = !filmed.length;
    byId("films").replaceChildren(...filmed.map((row) => {
      const path = `media/${run.id}/${number}-${row.initial_state}-${row.repeat}`;
      const name = `initial state ${row.initial_state}${row.repeat ? `, repeat ${row.repeat}` : ""}`;
      const outcome = run.outcomes[row.outcome];
      const poster = row.film === 2 ? `${path}.jpg` : null;
      return element("li", {},
        element("video", { controls: true, playsinline: true, preload: poster ? "none" : "metadata", src: `${path}.mp4`, poster, "aria-label": `Film of ${name}, ${outcome}` }),
        element("p", {}, vlarig.outcome(outcome), " ", element("a", { href: vlarig.episodeLink(run.id, `${vlarig.taskKey(task)}/${row.initial_state}/${row.repeat}`) }, name), `, ${row.steps} steps`),
        row.instruction ? element("p", { class: "soft" }, row.instruction) : null);
    }));
  };

  const keeps = (row, form) => {
    const { outcome, initial_state: state, film, failed } = form.elements;
    return (!outcome.value || row.outcome === Number(outcome.value))
      && (!state.value.trim() || String(row.initial_state) === state.value.trim())
      && (!film.checked || row.film) && (!failed.checked || row.failed);
  };

  const describe = (run, task) => {
    const missing = task.expected - task.finished - task.errors;
    const rate = task.finished ? `${((100 * task.successes) / task.finished).toFixed(1)} %, 95 % interval ${(100 * task.interval[0]).toFixed(1)} to ${(100 * task.interval[1]).toFixed(1)}, n ${vlarig.count(task.finished)}` : "none finished";
    byId("lead").textContent = `${rate}; ${task.errors} ${task.errors === 1 ? "error" : "errors"}, ${vlarig.count(missing)} missing. Counted is ${task.rule}.`;
    byId("notes").textContent = run.notes.join(" ");
    vlarig.title(task.label);
    vlarig.crumbs([run.name, run.page], [task.label]);
  };

  const render = async () => {
    const { run: id, words } = vlarig.place();
    const number = Number(words[0]);
    try {
      if (!id) throw new Error("the address names no run");
      const run = await vlarig.load(`data/${id}/run.js`);
      const task = run.tasks[number];
      if (!task) throw new Error(`${run.name} has no task number ${words[0]}`);
      const data = await vlarig.load(`data/${id}/task-${number}.js`);
      const rows = rowsOf(data);
      describe(run, task);
      vlarig.instruction(data.instructions.length === 1 ? data.instructions[0] : "");
      if (shownFor !== `${id}/${number}`) {
        shownFor = `${id}/${number}`;
        listing = vlarig.listing({
          table: byId("episodes"), form: byId("filters"), pager: byId("pager"), status: byId("count"), keeps, noun: "episodes",
          columns: columnsFor(run, task, rows.some((row) => row.repeat)), rendered: (part) => renderFilms(run, number, task, part),
        });
      }
      vlarig.problem("");
      listing.show(rows);
    } catch (error) {
      vlarig.problem(`This list cannot be shown: ${error.message}. Start from the first page.`);
    }
  };
  render();
  window.addEventListener("hashchange", render);
  document.addEventListener("vlarig:changed", render);
})();
