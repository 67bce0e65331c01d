// Actions as curves, one small chart for each channel, with a line at each new chunk and at the current step.
"use strict";
(() => {
  const { element, svg } = vlarig;

  const bounds = (numbers) => {
    const finite = numbers.filter(Number.isFinite);
    const [low, high] = [Math.min(0, ...finite), Math.max(0, ...finite)];
    const room = (high - low || 1) * 0.08;
    return [low - room, high + room];
  };

  const digits = (number) => (Number.isFinite(number) ? Number(number.toPrecision(3)).toString() : String(number));

  // A row's action holds until the next one.
  const steps = (numbers) => numbers.map((number, row) => {
    const y = Number.isFinite(number) ? -number : 0;
    return `${row ? "V" : "M0,"}${y}H${row + 1}`;
  }).join("");

  // channel: { name, unit, gripper }; chunks: the first steps of the chunks. Returns a function that takes the current step.
  vlarig.plot = (container, channel, numbers, chunks, seek) => {
    const rows = numbers.length;
    const [low, high] = bounds(numbers);
    const id = `plot-${container.childElementCount}`;
    const cursor = svg("line", { class: "cursor", x1: 0, x2: 0, y1: -high, y2: -low });
    const finite = numbers.filter(Number.isFinite);
    const range = `${digits(Math.min(...finite))} to ${digits(Math.max(...finite))}`;
    const chart = svg("svg", { viewBox: `0 ${-high} ${rows} ${high - low}`, preserveAspectRatio: "none", role: "img", "aria-labelledby": `${id}-title ${id}-desc` },
      svg("title", { id: `${id}-title` }, `${channel.name} over ${rows} rows`),
      svg("desc", { id: `${id}-desc` }, `From ${range} ${channel.unit}. The table below has every number.`),
      svg("line", { class: "zero", x1: 0, x2: rows, y1: 0, y2: 0 }),
      svg("path", { class: "chunk", d: chunks.map((row) => `M${row},${-high}V${-low}`).join("") }),
      svg("path", { class: "curve", d: steps(numbers) }), cursor);
    chart.addEventListener("click", (event) => {
      const box = chart.getBoundingClientRect();
      seek(Math.floor(((event.clientX - box.left) / box.width) * rows));
    });
    const words = [channel.unit, channel.gripper].filter(Boolean).join(", ");
    container.append(element("figure", { class: channel.gripper ? "gripper" : null },
      element("figcaption", {}, element("strong", {}, channel.name), element("span", { class: "soft" }, `${range}${words ? ` (${words})` : ""}`)), chart));
    return (row) => { cursor.setAttribute("x1", row); cursor.setAttribute("x2", row); };
  };

  vlarig.digits = digits;
})();
