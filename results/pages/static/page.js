// What every page has: data files that are loaded when they are needed, and elements made of text.
"use strict";
(() => {
  const vlarig = (window.vlarig = {});
  const pending = new Map(); // path: the resolvers of its promise
  const kept = new Map(); // path: the promise of its data, the latest few
  const MOST_KEPT = 12;
  const live = document.querySelector("meta[name=vlarig-version]");

  // The version of the runs on this page; empty on a static site.
  vlarig.version = live ? live.content : "";

  // A data file calls this when it is loaded.
  vlarig.arrived = (path, data) => pending.get(path)?.resolve(data);

  // The data of a file, as a promise. A page that was opened from a disk may not read JSON, but may load a script.
  vlarig.load = (path) => {
    const known = kept.get(path);
    if (known) return known;
    const loading = new Promise((resolve, reject) => {
      pending.set(path, { resolve, reject });
      const script = document.createElement("script");
      script.src = vlarig.version ? `${path}?${vlarig.version}` : path;
      script.onload = () => { script.remove(); reject(new Error(`${path} holds something else`)); };
      script.onerror = () => { script.remove(); reject(new Error(`${path} is not there`)); };
      document.head.append(script);
    });
    loading.catch(() => kept.delete(path));
    kept.set(path, loading);
    while (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    return loading;
  };

  vlarig.forget = () => kept.clear();

  const fill = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  // An element; strings among the children are text, whatever they look like.
  vlarig.element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  vlarig.svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // The part of the address behind #: words between slashes, then what a list is narrowed to.
  vlarig.place = () => {
    const [path, query = ""] = location.hash.slice(1).split("?");
    const words = path.split("/").map((word) => {
      try { return decodeURIComponent(word); } catch { return word; }
    });
    return { run: /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(words[0]) ? words[0] : "", words: words.slice(1), query: new URLSearchParams(query) };
  };

  vlarig.remember = (query) => {
    const hash = location.hash.split("?")[0];
    const text = query.toString();
    try { history.replaceState(null, "", text ? `${hash}?${text}` : hash); } catch { /* the list works without it */ }
  };

  const safe = (text) => encodeURIComponent(text).replace(/%40/g, "@");
  vlarig.episodeLink = (run, key) => `episode.html#${run}/${key.split("/").map(safe).join("/")}`;
  vlarig.taskLink = (run, number) => `task.html#${run}/${number}`;
  vlarig.taskKey = (task) => [task.suite, task.protocol, task.task, task.variant].join("/");

  // A long name that may break after _ and /.
  vlarig.breakable = (text) => text.split(/(?<=[_/])/).flatMap((part, index) => (index ? [vlarig.element("wbr"), part] : [part]));

  // The instruction, in quotation marks; nothing where it is not known.
  vlarig.instruction = (text) => { document.getElementById("instruction").textContent = text ? `“${text}”` : ""; };

  const SIGNS = { success: "✓", failure: "✗", error: "!" };
  vlarig.outcome = (word) => vlarig.element("span", { class: word }, `${SIGNS[word]} ${word}`);

  // Not by its address: what is behind # says what some pages show.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });

  vlarig.count = (number) => Number(number).toLocaleString("en");
  vlarig.problem = (text) => {
    document.getElementById("problem").textContent = text;
    document.getElementById("content")?.toggleAttribute("hidden", Boolean(text));
  };

  vlarig.title = (text) => {
    document.getElementById("title").replaceChildren(...vlarig.breakable(text));
    document.title = `${text} – ${document.title.split(" – ").pop()}`;
  };

  vlarig.crumbs = (...links) => {
    const here = document.getElementById("crumbs");
    here.replaceChildren(...links.flatMap(([text, href], index) => [
      ...(index ? [" / "] : []),
      href ? vlarig.element("a", { href }, text) : vlarig.element("span", { "aria-current": "page" }, text),
    ]));
  };
})();
