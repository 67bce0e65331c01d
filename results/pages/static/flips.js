// The episodes that one of two runs alone succeeded in.
"use strict";
(() => {
  const { element } = vlarig;
  const byId = (id) => document.getElementById(id);
  let listing = null;

  const render = async () => {
    const table = byId("flips");
    if (!table) return;
    try {
      const data = await vlarig.load(byId("compared").dataset.flips);
      const rows = ["gained", "lost"].flatMap((which) => data[which].map((key) => ({ which, key })));
      const keyIn = (run, key) => {
        const [suite, , ...episode] = key.split("/");
        return [suite, run.protocols[suite], ...episode].join("/");
      };
      const link = (run, row, word) => element("a", { href: vlarig.episodeLink(run.id, keyIn(run, row.key)) }, vlarig.outcome(word));
      listing ??= vlarig.listing({
        table, form: byId("filters"), pager: byId("pager"), status: byId("count"), noun: "episodes",
        keeps: (row, form) => (!form.elements.which.value || row.which === form.elements.which.value) && row.key.toLowerCase().includes(form.elements.text.value.trim().toLowerCase()),
        columns: [
          { name: "key", heading: "Episode", value: (row) => row.key, cell: (row) => element("span", {}, ...vlarig.breakable(row.key)) },
          { name: "which", heading: "Which", value: (row) => row.which, cell: (row) => row.which },
          { name: "first", heading: data.first ? data.first.name : "First", value: (row) => row.which, cell: (row) => link(data.first, row, row.which === "lost" ? "success" : "failure") },
          { name: "second", heading: data.second ? data.second.name : "Second", value: (row) => row.which, cell: (row) => link(data.second, row, row.which === "gained" ? "success" : "failure") },
        ],
      });
      byId("problem").textContent = "";
      listing.show(rows);
    } catch (error) {
      byId("problem").textContent = `This list cannot be shown: ${error.message}.`;
    }
  };
  render();
  document.addEventListener("vlarig:changed", render);
})();
