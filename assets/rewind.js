// Small behaviours of the pictures: nothing here computes, it only shows what is in the page.
(() => {
  // A film is a row of square frames in one picture; the scrubber of its group picks the frame.
  const show = (group, position) => {
    group.querySelectorAll("[data-frames]").forEach((film) => {
      const last = Number(film.dataset.frames) - 1;
      const frame = Math.round(position * last);
      film.style.setProperty("--at", last > 0 ? frame / last : 0);
    });
    group.querySelectorAll("[data-states]").forEach(({ children }) => {
      const now = Math.round(position * (children.length - 1));
      [...children].forEach((state, place) => state.toggleAttribute("data-off", place !== now));
    });
    // At the end of the film the exact picture below it shows again.
    group.toggleAttribute("data-scrubbing", position < 1 || "living" in group.dataset);
  };
  const scrub = (input) => show(input.closest("[data-films]"), input.value / input.max);
  const cut = (input) => input.closest("[data-cut]").style.setProperty("--cut", input.value + "%");

  document.addEventListener("input", (event) => {
    const input = event.target;
    if (!input.matches) return;
    if (input.matches("[data-scrub]")) { stop(input.closest("[data-films]")); scrub(input); }
    if (input.matches("[data-cutter]")) cut(input);
  });

  // Play: forwards or backwards through the frames, about two seconds for the whole film.
  const playing = new WeakMap();
  const stop = (group) => { clearInterval(playing.get(group)); playing.delete(group); };
  const play = (group, direction, forever) => {
    stop(group);
    const input = group.querySelector("[data-scrub]");
    const step = Number(input.max) / 48;
    let way = direction, wait = 0;
    playing.set(group, setInterval(() => {
      if (!group.isConnected) return stop(group);
      if (wait-- > 0) return;
      input.value = Number(input.value) + way * step;
      scrub(input);
      const ended = way > 0 ? input.value === input.max : Number(input.value) === 0;
      if (!ended) return;
      if (!forever) return stop(group);
      wait = way > 0 ? 75 : 12;  // the picture stays, the noise does not
      way = -way;
    }, 42));
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("[data-play],[data-copy],[data-fill]");
    if (!button) return;
    if (button.dataset.play) {
      const group = button.closest("[data-films]"), input = group.querySelector("[data-scrub]");
      const way = Number(button.dataset.play);
      if (playing.has(group)) return stop(group);
      input.value = way > 0 ? 0 : input.max;
      play(group, way, false);
    } else if (button.dataset.fill) {
      const field = document.querySelector(`#${button.dataset.fill} :is(textarea, input)`);
      field.value = button.innerText;
      field.dispatchEvent(new Event("input", { bubbles: true }));
      field.focus();
    } else {
      const source = document.getElementById(button.dataset.copy);
      const text = source.href || source.innerText;
      const said = button.innerText;
      const done = (word) => { button.innerText = word; setTimeout(() => (button.innerText = said), 1500); };
      navigator.clipboard ? navigator.clipboard.writeText(text).then(() => done("Copied"), () => done("Select and copy")) : done("Select and copy");
    }
  });

  // Runs. Gradio drops an event while it still counts an earlier one of the same kind, and that is
  // longer than the result takes to appear. So a press of Run comes here and goes on when the way
  // is free, the last of several. A double click is one press.
  const runs = {};
  const waiting = '<div class="status running" role="status" data-waiting>' +
    '<div class="bar"><i></i></div><p>Waiting for a free place</p></div>';
  const halted = '<div class="status" role="status">' +
    "<p>Stopped. What is shown is as far as it came.</p></div>";
  const restoring = waiting.replace("Waiting for a free place", "Waiting for the link to be restored");
  const refused = '<div class="status failed" role="alert"><h3>This did not start.</h3>' +
    "<p>Many visitors wait already, or a value cannot be used. Try again in a moment.</p></div>";
  const press = (name, wait) => setTimeout(() => document.getElementById(name)?.click(), wait);
  const SETTLE = 400;  // milliseconds in which Gradio has sent a run, or has done with a stopped one
  const PATIENCE = 10 * SETTLE;
  const go = (run, name, button = "go") => {
    run.busy = true;
    run.again = run.stopped = false;  // until then a late word of a run that was stopped says so
    run.since = performance.now();
    holdPlace(name);
    press(`${name}-${button}`, 0);
  };
  // What the address asks for: until its panel is restored, a run would be one of the defaults.
  const address = () => new URLSearchParams(location.search);
  const linked = () => (address().get("method") ?? "").replaceAll("-", "_");
  let unrestored = linked();
  const held = new Set();
  // A page that is loaded again while a run is under way opens the tab of its button again.
  const stay = (name) => {
    const [method, action] = name.split("-"), at = address();
    if (linked() === method && (at.get("action") ?? "run").replaceAll("-", "_") === action) return;
    const query = new URLSearchParams({ method: method.replaceAll("_", "-") });
    if (action !== "run") query.set("action", action);
    history.replaceState(null, "", `${location.pathname}?${query}`);
  };
  // The runs that this page was left with in this tab, by button; a link to elsewhere drops them.
  const LEFT = "rewind-left", here = () => location.pathname + location.search;
  const left = (() => {
    const kept = JSON.parse(sessionStorage.getItem(LEFT) ?? "{}");
    sessionStorage.removeItem(LEFT);
    return kept.at === here() ? kept.runs : {};
  })();
  addEventListener("pagehide", () => {
    const running = [...document.querySelectorAll("[id$=-status] [data-run]")];
    const keys = running.map((line) => [line.closest("[id$=-status]").id.replace(/-status$/, ""), line.dataset.run]);
    if (keys.length) sessionStorage.setItem(LEFT, JSON.stringify({ at: here(), runs: Object.fromEntries(keys) }));
  });
  const lookForRuns = () => Object.keys(left).forEach((name) => {
    if (unrestored === name.split("-")[0] || runs[name] || !document.getElementById(`${name}-again`)) return;
    go((runs[name] = {}), name, "again");
  });
  const over = (name) => {
    const run = runs[name];
    if (run.ends) return;
    run.ends = setTimeout(() => {
      run.busy = false;
      run.ends = 0;
      freePlace(name);
      if (run.again) go(run, name);
    }, run.stopped ? SETTLE : 0);
  };
  // A link that ends in #run, such as the films on Home, begins once its panel is restored.
  const begin = (method) => {
    const action = (address().get("action") ?? "run").replaceAll("-", "_"), name = `${method}-${action}`;
    history.replaceState(null, "", location.pathname + location.search);
    const button = document.getElementById(name);
    if (!button) return;
    (button.closest(".bench") ?? button).scrollIntoView({ block: "start" });
    held.add(name);
  };
  window.rewindRuns = {
    ask(name) {
      const run = (runs[name] ??= {});
      if (unrestored === name.split("-")[0]) {
        held.add(name);
        return restoring;
      }
      stay(name);
      if (run.busy) run.again = true;
      else go(run, name);
      return waiting;
    },
    restored(method) {
      if (unrestored !== method) return;
      unrestored = "";
      if (location.hash === "#run") begin(method);
      held.forEach((name) => press(name, 0));
      held.clear();
      lookForRuns();
    },
    left: (name) => left[name],
    stop(name, said) {
      const run = runs[name];
      if (held.delete(name)) return halted;
      if (!run?.busy) return said;
      if (!run.stopped) press(`${name}-halt`, Math.max(0, run.since + SETTLE - performance.now()));
      run.stopped = true;
      run.again = false;
      return halted;
    },
    // A last line of the run that was cut off may come behind "Stopped": it is said again. The run
    // is over when Gradio says so, or, where it never does, after a while.
    halted(name, said) {
      const run = runs[name];
      if (!run?.stopped) return said;
      setTimeout(() => { if (run.busy && run.stopped) over(name); }, PATIENCE);
      return run.again ? waiting : halted;
    },
    done(name, said) {
      const link = document.querySelector(`#${name}-status a[data-link]`);
      if (link) history.replaceState(null, "", link.href);
      if (!runs[name].stopped) noteRun(name);
      return this.failed(name, said);
    },
    failed(name, said) {
      const { again, stopped } = runs[name];
      over(name);
      if (again) return waiting;
      if (stopped) return halted;
      if (String(said).includes("data-waiting")) return refused;
      return String(said).replace(/running settling" data-run="[^"]*"/, 'done"');
    },
  };
  // Recordings: what a panel shows before its first run, fetched once its button is seen and put
  // into the places in which a run draws. A run that has begun is never drawn over.
  const opened = new Set(), SKIP = { __type__: "update" };
  const openRecordings = () => document.querySelectorAll("[id$=-recorded]").forEach((button) => {
    const name = button.id.replace(/-recorded$/, "");
    if (opened.has(name) || !document.getElementById(name)?.offsetParent) return;
    opened.add(name);
    press(button.id, 0);
  });
  window.rewindRecordings = {
    async read(name, address, places) {
      const kept = places.map(() => SKIP);
      if (runs[name] || left[name]) return kept;
      const held = await fetch(address).then((reply) => reply.ok ? reply.text() : "");
      if (!held || runs[name]) return kept;
      const { parts, drawn } = JSON.parse(held);
      const whole = (one) => typeof one === "string"
        ? one.replace(/\x1a(\d+)\x1a/g, (_, part) => parts[part]) : { ...one };
      return places.map((place) => whole(drawn[place]));
    },
  };
  // While a run draws anew what stood there, its place stays as tall as it was.
  const holdPlace = (name) => {
    const place = document.getElementById(name)?.closest(".bench")?.querySelector(":scope > .shown");
    if (place) place.style.minHeight = `${place.offsetHeight}px`;
  };
  const freePlace = (name) => document.getElementById(name)?.closest(".bench")
    ?.querySelector(":scope > .shown")?.style.removeProperty("min-height");
  // The shelf as a chip in the bar of every page: the model in front, its edits, undo, and a way to
  // the whole. Where a page has no shelf of its own, the chip leads to one that has.
  let shelved = null, page = "";
  const element = (tag, properties, ...inside) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...inside);
    return made;
  };
  const openShelf = () => {
    const fold = document.querySelector("#shelf");
    const head = fold?.querySelector("button.label-wrap");
    if (head && !head.classList.contains("open")) head.click();
    fold?.scrollIntoView({ block: "start" });
    return fold;
  };
  const wayToShelf = () => {
    const links = [...document.querySelectorAll(".nav-holder nav > a")];
    const to = links.find((link) => /erase/.test(link.href)) ?? links[1];
    return `${to?.href ?? ""}#shelf`;
  };
  const drawChip = () => {
    const bar = document.querySelector(".nav-holder nav");
    if (!bar) return;
    const [first, ...others] = shelved?.models ?? [], count = first?.edits?.length ?? 0;
    const edits = `${count} edit${count === 1 ? "" : "s"}`, more = others.length ? ` (+${others.length})` : "";
    const said = first ? `${first.name} · ${edits}${more}` : "empty";
    const old = bar.querySelector(".shelf-chip");
    if (old?.dataset.said === said) return;
    const link = element("a", { href: wayToShelf(), className: "quiet" }, "Shelf: ", element("b", {}, said));
    link.addEventListener("click", (event) => { if (document.querySelector("#shelf")) { event.preventDefault(); openShelf(); } });
    const chip = element("div", { className: "shelf-chip" }, link);
    chip.dataset.said = said;
    if (count) {
      const undo = element("button", { type: "button", className: "copy" }, "◀ Undo");
      undo.setAttribute("aria-label", `Undo the last edit of ${first.name}`);
      undo.addEventListener("click", () => press(`${page}-shelf-latest`, 0));
      chip.append(undo);
    }
    old ? old.replaceWith(chip) : bar.append(chip);
  };
  // A link that ends in #shelf opens it. A fold that Gradio has not woken yet hears no click: it is
  // asked again until it stands open.
  let coming = 0;
  const comeToShelf = () => {
    const head = location.hash === "#shelf" && document.querySelector("#shelf button.label-wrap");
    if (!head || coming) return;
    openShelf();
    coming = setTimeout(() => {
      coming = 0;
      if (!head.isConnected || !head.classList.contains("open")) return comeToShelf();
      history.replaceState(null, "", location.pathname + location.search);
      head.scrollIntoView({ block: "start" });
    }, 300);
  };
  window.rewindShelf = {
    opens(kept, name) {
      this.chip(kept, name);
      if (kept?.models?.length) press(`${name}-shelf-show`, 0);
    },
    chip(kept, name) {
      [shelved, page] = [kept, name];
      drawChip();
    },
  };

  // The first stop of the tab key is a way past the bar.
  const addSkip = () => {
    const main = document.querySelector("main");
    if (!main || document.querySelector(".skip")) return;
    const skip = element("a", { className: "skip", href: `${location.pathname}${location.search}#content` }, "Skip to the content");
    skip.addEventListener("click", (event) => {
      event.preventDefault();
      const head = document.querySelector("main :is(h1, h2)") ?? main;
      head.tabIndex = -1;
      head.focus();
    });
    document.body.prepend(skip);
  };
  // A control that runs when it is turned does so when its value has changed since it was entered.
  // Gradio tells of a release or an input whenever a field is left.
  const valueOf = (box) => [...box.querySelectorAll("input")].map((field) =>
    /radio|checkbox/.test(field.type) ? field.checked : field.value).join("\n");
  const entered = new WeakMap();
  const turnedBox = (event) => event.target.closest?.(".turned");
  const enter = (event) => {
    const box = turnedBox(event);
    const isInside = box?.contains(event.type === "focusin" ? event.relatedTarget : document.activeElement);
    if (box && !isInside) entered.set(box, valueOf(box));
  };
  const turn = (event) => {
    const box = turnedBox(event);
    if (box) setTimeout(() => {  // Gradio first brings the value into its bounds
      const now = valueOf(box), before = entered.get(box);
      entered.set(box, now);
      if (now === before) return;
      box.classList.forEach((name) => {
        // What is turned may decide a choice beside it: "chooses-ssd-by-1" takes its second option.
        const [, choice, option] = name.match(/^chooses-(.+)-(\d+)$/) ?? [];
        if (choice) document.querySelectorAll(`#${choice} input`)[option]?.click();
      });
      box.classList.forEach((name) => { if (name.startsWith("turned-")) press(name.slice(7), 0); });
    }, 0);
  };
  addEventListener("focusin", enter, true);
  addEventListener("pointerdown", enter, true);
  addEventListener("change", turn, true);
  addEventListener("focusout", turn, true);

  // A whole number that cannot be used is settled when its field is left, and that is said there.
  const settle = (event) => {
    const field = event.target;
    if (!field.matches?.(".seed input[type=number]")) return;
    const least = Number(field.min), most = Number(field.max), typed = field.value;
    const number = typed === "" ? Number(field.dataset.last ?? field.defaultValue) : Math.round(Number(typed));
    const settled = String(Math.min(Math.max(number || 0, least), most));
    field.dataset.last = settled;
    if (typed !== "" && Number(settled) === Number(typed)) return;
    const said = typed === "" ? "The seed is never empty" : `${typed} is no seed`;
    field.value = settled;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.closest("label").after(Object.assign(document.createElement("p"), {
      className: "note settled", role: "status",
      textContent: `${said}: whole numbers from ${least} to ${most}. Taken: ${settled}.`,
    }));
  };
  addEventListener("focusin", (event) => {
    const field = event.target;
    if (!field.matches?.(".seed input[type=number]")) return;
    field.dataset.last = field.value || field.dataset.last || field.min;
    field.closest(".seed").querySelectorAll(".settled").forEach((line) => line.remove());
  });
  addEventListener("focusout", settle);

  addEventListener("click", (event) => {
    const button = event.detail > 1 && event.target.closest && event.target.closest(".actions button");
    if (button && runs[button.id]?.busy) event.stopImmediatePropagation();
  }, true);

  // Gradio takes a key for the sign that a field was changed, and so misses what is pasted, deleted
  // or filled in by a button.
  document.addEventListener("input", (event) => {
    const field = event.target;
    if (event.inputType !== "insertText" && field.matches && field.matches("[data-testid=textbox]"))
      field.dispatchEvent(new KeyboardEvent("keypress", { bubbles: true }));
  });

  // Listening: versions of one recording under one clock; another one goes on where the last was.
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("[data-hear]");
    if (!button) return;
    const group = button.closest("[data-voices]"), sound = button.parentElement.querySelector("audio");
    const others = [...document.querySelectorAll("[data-hear][aria-pressed=true]")];
    let at = 0;
    others.forEach((other) => {
      const playing = other.parentElement.querySelector("audio");
      if (other.closest("[data-voices]") === group) at = playing.currentTime;
      playing.pause();
      other.setAttribute("aria-pressed", "false");
    });
    if (others.includes(button)) return;
    sound.currentTime = at < sound.duration - 0.05 ? at : 0;
    button.setAttribute("aria-pressed", "true");
    sound.ontimeupdate = () => group.style.setProperty("--heard", sound.currentTime / sound.duration);
    sound.onended = () => { button.setAttribute("aria-pressed", "false"); group.style.setProperty("--heard", 0); };
    sound.play().catch(() => {}); // another button may stop it before it has begun
  });

  // Worksheets: the answer opens after a prediction and a run of its task, which stay noted in this
  // browser; all answers leave as one text file.
  const noted = (task) => `rewind-ran-${task.closest("[data-sheet]").dataset.sheet}-${task.dataset.number}`;
  const noteRun = (name) => {
    const tasks = [...document.querySelectorAll(`[data-task][data-button="${CSS.escape(name)}"]`)];
    const current = tasks.filter((task) => task.classList.contains("current"));
    (lesson ? current : tasks).forEach((task) => {
      localStorage.setItem(noted(task), "1");
      task.querySelector("[data-missing]")?.remove();
    });
  };
  const missing = (task) => {
    if (!task.querySelector("textarea").value.trim()) return "Write your prediction first.";
    return localStorage.getItem(noted(task)) ? "" : "Run it first, then compare.";
  };
  const answers = (sheet) => {
    const tasks = [...sheet.querySelectorAll("[data-task]")].map((task, i) => [
      `${i + 1}. ${task.querySelector("p").firstChild.textContent.trim()}`,
      task.querySelector("a")?.href ?? "",
      task.querySelector("label").firstChild.textContent.trim(),
      task.querySelector("textarea").value.trim() || "(no answer)",
    ].filter(Boolean).join("\n"));
    const link = `${location.origin}${location.pathname}?method=${sheet.dataset.sheet}`;
    const date = new Date().toLocaleDateString("en-CA");
    return [`Rewind, worksheet: ${sheet.dataset.title}\nDate: ${date}\nLink: ${link}`, ...tasks].join("\n\n") + "\n";
  };
  document.addEventListener("click", (event) => {
    const summary = event.target.closest && event.target.closest("[data-task] summary");
    const save = event.target.closest && event.target.closest("[data-export]");
    if (summary) {
      const task = summary.closest("[data-task]"), wanted = missing(task);
      task.querySelector("[data-missing]")?.remove();
      if (!wanted || summary.parentElement.open) return;
      event.preventDefault();
      const said = element("p", { className: "note", textContent: wanted });
      said.setAttribute("role", "status");
      said.dataset.missing = "";
      summary.parentElement.after(said);
      if (!task.querySelector("textarea").value.trim()) task.querySelector("textarea").focus();
    }
    if (save) {
      const sheet = save.closest("[data-sheet]");
      const file = URL.createObjectURL(new Blob([answers(sheet)], { type: "text/plain" }));
      element("a", { href: file, download: `${sheet.dataset.sheet}-answers.txt` }).click();
    }
  });

  // What was written stays in this browser while a sheet's links open other settings.
  const kept = (field) => `rewind-answer-${field.closest("[data-sheet]").dataset.sheet}-${field.dataset.answer}`;
  document.addEventListener("input", (event) => {
    const field = event.target;
    if (field.matches && field.matches("[data-answer]")) localStorage.setItem(kept(field), field.value);
  });
  const recall = () => document.querySelectorAll("[data-answer]:not([data-recalled])").forEach((field) => {
    field.dataset.recalled = "";
    field.value = localStorage.getItem(kept(field)) || "";
  });

  // Pictures marked as living play by themselves, unless the visitor asked for less motion.
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // A lesson: its sheet stands beside the panel, and settings that its task does not need are away.
  const wanted = new URLSearchParams(location.search), lesson = wanted.get("lesson");
  let widened = false, shown = false;
  const openLesson = () => {
    if (!lesson || widened) return;
    // The page may draw a sheet anew: each new one is opened once.
    const sheet = `.lesson-fold [data-sheet="${CSS.escape(wanted.get("method"))}"]`;
    const fold = document.querySelector(sheet)?.closest(".lesson-fold");
    if (!fold?.getClientRects().length) return;
    if (!("opened" in fold.dataset)) {
      fold.dataset.opened = "";
      fold.open = true;
    }
    document.body.classList.add("in-lesson");
    const task = fold.querySelector(`[data-number="${CSS.escape(lesson)}"]`);
    if (!task) return;
    task.classList.add("current");
    const kept = task.dataset.controls.split(" ").map((name) => `set-${name}`);
    document.querySelectorAll(".setting").forEach((setting) =>
      setting.classList.toggle("put-away", !kept.some((name) => setting.classList.contains(name))));
    // What belongs to a setting goes away with it.
    document.querySelectorAll(".seed").forEach((row) =>
      row.classList.toggle("put-away", !!row.querySelector(".setting.put-away")));
    document.querySelectorAll(".suggestions").forEach((row) => {
      const field = document.getElementById(row.querySelector("[data-fill]").dataset.fill);
      row.classList.toggle("put-away", !!field?.closest(".put-away"));
    });
    const button = document.getElementById(task.dataset.button);
    if (shown || !button?.getClientRects().length) return;
    shown = true;
    // Where the sheet stands above the panel, it is what is to be seen first.
    const isBeside = matchMedia("(min-width: 1080px)").matches;
    if (isBeside && button.getBoundingClientRect().top > innerHeight) button.scrollIntoView({ block: "center" });
  };
  if (lesson) setInterval(openLesson, 500);
  document.addEventListener("click", (event) => {
    if (!event.target.closest || !event.target.closest("[data-widen]")) return;
    widened = true;
    document.querySelectorAll(".put-away").forEach((one) => one.classList.remove("put-away"));
  });

  const wake = () => {
    recall();
    lookForRuns();
    openRecordings();
    addSkip();
    drawChip();
    comeToShelf();
    document.querySelectorAll("[data-living]:not([data-awake])").forEach((group) => {
      group.dataset.awake = "";
      scrub(group.querySelector("[data-scrub]"));
      if (!calm.matches) play(group, 1, true);
    });
    // Gradio names an empty figure without saying what it is: a name needs a role.
    document.querySelectorAll(".empty[aria-label]:not([role])").forEach((place) =>
      place.setAttribute("role", "img"));
    if (!document.documentElement.lang) document.documentElement.lang = "en";
  };
  new MutationObserver(wake).observe(document.documentElement,
    { childList: true, subtree: true, attributeFilter: ["aria-selected"] });  // a tab was opened
})();

// Bars that follow a slider: every value is in the page, and the slider picks one of each.
(() => {
  let playing = 0;
  const stop = () => { clearInterval(playing); playing = 0; };
  const show = (input) => {
    const at = Number(input.value), names = JSON.parse(input.dataset.grow), group = input.closest(".grow");
    input.setAttribute("aria-valuetext", names[at]);
    group.querySelector("output b").textContent = names[at];
    group.querySelectorAll("li[data-shares]").forEach((row) => {
      row.querySelector("i").style.setProperty("--share", JSON.parse(row.dataset.shares)[at] ?? 0);
      row.querySelector(":scope > b").textContent = JSON.parse(row.dataset.told)[at];
    });
  };
  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("[data-grow]")) return;
    stop();
    show(event.target);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".grow [data-way]");
    if (!button) return;
    stop();
    const input = button.parentElement.querySelector("[data-grow]"), way = Number(button.dataset.way);
    const last = Number(input.max), end = way > 0 ? last : 0;
    if (Number(input.value) === end) input.value = last - end;
    show(input);
    playing = setInterval(() => {
      input.value = Number(input.value) + way;
      show(input);
      if (!input.isConnected || Number(input.value) === end) stop();
    }, 420);
  });
})();
