// An episode's film, with a mark at each new chunk, and buttons that go from frame to frame.
"use strict";
(() => {
  const { element, svg } = vlarig;

  // A film has a frame before the first step and one after each step. Gives { seek(row) }; calls moved(row) as it plays.
  // The poster shows how the episode ended, until the first frame is there.
  vlarig.film = (container, path, poster, label, rows, chunks, moved) => {
    const frames = rows + 1;
    const video = element("video", { controls: true, playsinline: true, preload: "metadata", src: path, poster, "aria-label": label });
    const cursor = svg("line", { class: "cursor", x1: 0, x2: 0, y1: 0, y2: 1 });
    const marks = svg("svg", { class: "timeline", viewBox: `0 0 ${rows} 1`, preserveAspectRatio: "none", role: "img" },
      svg("title", {}, `${chunks.length} chunks; a line where each begins`),
      svg("path", { class: "chunk", d: chunks.map((row) => `M${row},0V1`).join("") }), cursor);
    const row = () => Math.min(rows, Math.floor((video.currentTime / (video.duration || 1)) * frames + 1e-6));
    let target = 0;
    const seek = (wanted) => {
      target = Math.min(Math.max(wanted, 0), rows);
      cursor.setAttribute("x1", target);
      cursor.setAttribute("x2", target);
      if (video.duration) video.currentTime = ((target + 0.5) / frames) * video.duration;
      moved(target);
    };
    const follow = () => {
      const now = row();
      cursor.setAttribute("x1", now);
      cursor.setAttribute("x2", now);
      moved(now);
      if (!video.paused && !video.ended && video.isConnected) requestAnimationFrame(follow);
    };
    video.addEventListener("loadedmetadata", () => seek(target), { once: true }); // else the poster stays, beside another row's numbers
    video.addEventListener("play", follow);
    video.addEventListener("error", () => container.append(element("p", { class: "warning" }, "The film cannot be played.")), { once: true });
    marks.addEventListener("click", (event) => {
      const box = marks.getBoundingClientRect();
      seek(Math.round(((event.clientX - box.left) / box.width) * rows));
    });
    container.replaceChildren(element("div", { class: "player" }, video, marks));
    return { seek: (wanted) => { video.pause(); seek(wanted); } };
  };
})();
