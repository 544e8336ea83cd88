// The picture editor of a world: the text field is the truth, the picture reads and writes it.
const box = element.querySelector("[data-world]");
const canvas = box.querySelector("canvas"), svg = box.querySelector("svg"), said = box.querySelector("[data-said]");
const REACH = 3, SIDE = 110, LIMIT = 2.5;
const field = () => document.querySelector("#" + box.dataset.field + " textarea");
let modes = [], last = null, chosen = -1;

const read = (text) => text.split(/[\n;]/).map((line) => line.trim()).filter(Boolean).map((line) => {
  const part = line.replace(/,/g, " ").split(/\s+/), [w, x, y, v] = part.slice(0, 4).map(Number);
  return { w, x, y, v, c: part[4] || "A" };
}).filter((m) => [m.w, m.x, m.y, m.v].every(Number.isFinite) && m.v > 0);
const short = (value) => String(Number(value.toFixed(3)));
const write = () => modes.map((m) => [short(m.w), short(m.x), short(m.y), short(m.v), m.c].join(" ")).join("\n");

const paint = () => {
  const context = canvas.getContext("2d"), picture = context.createImageData(SIDE, SIDE);
  const values = new Float64Array(SIDE * SIDE), total = modes.reduce((sum, m) => sum + m.w, 0);
  let most = 0;
  for (let row = 0; row < SIDE; row++) for (let col = 0; col < SIDE; col++) {
    const x = -REACH + 2 * REACH * (col + 0.5) / SIDE, y = REACH - 2 * REACH * (row + 0.5) / SIDE;
    let sum = 0;
    for (const m of modes) {
      const far = (x - m.x) ** 2 + (y - m.y) ** 2;
      if (far < 30 * m.v) sum += m.w / total / m.v * Math.exp(-far / 2 / m.v);
    }
    values[row * SIDE + col] = sum;
    most = Math.max(most, sum);
  }
  for (let i = 0; i < values.length; i++) {
    picture.data.set([128, 120, 108, 210 * Math.sqrt(values[i] / (most || 1))], 4 * i);
  }
  context.putImageData(picture, 0, 0);
};

const NS = "http://www.w3.org/2000/svg";
const draw = () => {
  paint();
  svg.replaceChildren(...modes.map((m, i) => {
    const group = document.createElementNS(NS, "g");
    group.setAttribute("transform", `translate(${m.x} ${-m.y})`);
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "button");
    group.setAttribute("aria-label", `Mode ${i + 1}, class ${m.c}, at ${short(m.x)}, ${short(m.y)}, variance ${short(m.v)}`);
    group.dataset.mode = i;
    const ring = document.createElementNS(NS, "circle");
    ring.setAttribute("r", Math.max(0.16, 1.5 * Math.sqrt(m.v)));
    const letter = document.createElementNS(NS, "text");
    letter.textContent = m.c[0];
    letter.setAttribute("dy", "0.09");
    group.append(ring, letter);
    group.classList.toggle("other", m.c !== modes[0].c);
    return group;
  }));
  if (chosen >= 0 && svg.children[chosen]) svg.children[chosen].focus({ preventScroll: true });
};

let pending = 0;
const rerun = () => {
  clearTimeout(pending);
  const id = box.dataset.slug, names = ["run", "views", "guide"];
  const name = names.find((one) => document.querySelector(`#${id}-${one}`)?.offsetParent);
  if (!name) return;
  const running = document.querySelector(`#${id}-${name}-status .running`);
  if (running) document.querySelector(`#${id}-${name}-stop`).click();
  pending = setTimeout(() => document.querySelector(`#${id}-${name}`).click(), running ? 600 : 60);
};
const store = (go) => {
  const area = field();
  if (!area) return;
  last = write();
  area.value = last;
  area.dispatchEvent(new Event("input", { bubbles: true }));
  said.textContent = `${modes.length} mode${modes.length === 1 ? "" : "s"}`;
  if (go) rerun();
};

const clamp = (value) => Math.max(-LIMIT, Math.min(LIMIT, value));
const place = (event) => {
  const rect = svg.getBoundingClientRect();
  return [clamp(-REACH + 2 * REACH * (event.clientX - rect.left) / rect.width),
          clamp(REACH - 2 * REACH * (event.clientY - rect.top) / rect.height)];
};
const remove = (i) => { if (modes.length > 1) { modes.splice(i, 1); chosen = -1; draw(); store(true); } };
const widen = (i, factor) => {
  modes[i].v = Math.max(0.002, Math.min(1, modes[i].v * factor));
  draw(); store(false);
  clearTimeout(pending); pending = setTimeout(rerun, 500);
};
const other = (c) => (c === "A" ? "B" : "A");

let dragged = null;
svg.addEventListener("pointerdown", (event) => {
  const group = event.target.closest("[data-mode]");
  if (!group) return;
  event.preventDefault();
  dragged = { i: Number(group.dataset.mode), x: event.clientX, y: event.clientY, moved: false };
  chosen = dragged.i;
  svg.setPointerCapture(event.pointerId);
});
svg.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  if (Math.hypot(event.clientX - dragged.x, event.clientY - dragged.y) > 3) dragged.moved = true;
  if (!dragged.moved) return;
  [modes[dragged.i].x, modes[dragged.i].y] = place(event);
  draw();
});
svg.addEventListener("pointerup", () => {
  if (!dragged) return;
  const { i, moved } = dragged;
  dragged = null;
  if (moved) store(true);
  else { chosen = i; draw(); }
});
svg.addEventListener("click", (event) => {
  if (event.target.closest("[data-mode]") || event.target !== svg || modes.length >= 32) return;
  const [x, y] = place(event), weight = modes.reduce((sum, m) => sum + m.w, 0) / (modes.length || 1) || 1;
  if (chosen >= 0 && document.activeElement?.dataset?.mode) { chosen = -1; draw(); }
  modes.push({ w: weight, x, y, v: 0.05, c: modes.at(-1)?.c || "A" });
  draw(); store(true);
});
svg.addEventListener("dblclick", (event) => {
  const group = event.target.closest("[data-mode]");
  if (group) remove(Number(group.dataset.mode));
});
svg.addEventListener("keydown", (event) => {
  const group = event.target.closest("[data-mode]");
  if (!group) return;
  const i = Number(group.dataset.mode), m = modes[i];
  const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
  chosen = i;
  if (moves[event.key]) {
    m.x = clamp(m.x + moves[event.key][0]); m.y = clamp(m.y + moves[event.key][1]);
    draw(); store(false); clearTimeout(pending); pending = setTimeout(rerun, 500);
  } else if (event.key === "+" || event.key === "=") widen(i, 1.25);
  else if (event.key === "-") widen(i, 0.8);
  else if (event.key === "Delete" || event.key === "Backspace") remove(i);
  else if (event.key.toLowerCase() === "c") { m.c = other(m.c); draw(); store(true); }
  else return;
  event.preventDefault();
});
box.addEventListener("click", (event) => {
  const button = event.target.closest("[data-preset]");
  if (button) { modes = read(button.dataset.preset); chosen = -1; draw(); store(true); return; }
  const knob = event.target.closest("[data-knob]");
  if (!knob) return;
  if (chosen < 0 || !modes[chosen]) { said.textContent = "Choose a mode in the picture first."; return; }
  if (knob.dataset.knob === "wide") widen(chosen, 1.25);
  if (knob.dataset.knob === "narrow") widen(chosen, 0.8);
  if (knob.dataset.knob === "class") { modes[chosen].c = other(modes[chosen].c); draw(); store(true); }
  if (knob.dataset.knob === "remove") remove(chosen);
});

// The field may also be typed into, or be filled by a link: follow it.
const follow = setInterval(() => {
  if (!box.isConnected) return clearInterval(follow);
  const area = field();
  if (!area || area.value === last || dragged) return;
  last = area.value;
  modes = read(last);
  draw();
}, 250);
