// A plane to draw on with the mouse, a finger or arrow keys: the text field is the truth. And the
// ways back, which follow the slider beside it.
const REACH = 1.6, SIDE = 420, MOST = 300;
const home = () => element.querySelector("[data-field]"), board = () => element.querySelector(".board svg");
const field = () => document.querySelector(`#${home()?.dataset.field} textarea`);
let points = [], isDrawing = false;

const read = (text) => text.split(/[\n;]/).map((pair) => pair.trim().split(/[\s,]+/).map(Number))
  .filter((pair) => pair.length === 2 && pair.every(Number.isFinite));
const cut = (value) => Math.max(-REACH, Math.min(REACH, value));
const place = ([x, y]) => `${((x / REACH + 1) / 2 * SIDE).toFixed(1)},${((1 - y / REACH) / 2 * SIDE).toFixed(1)}`;
const put = (text, go) => {
  const area = field();
  if (!area) return;
  area.value = text;
  area.dispatchEvent(new Event("input", { bubbles: true }));
  const run = document.querySelector(`#${home().dataset.run}`);
  if (go) setTimeout(() => run?.click(), 80);
};
const store = (go) => {
  if (points.length < 2) return;
  const step = Math.ceil(points.length / MOST);
  const kept = points.filter((_, i) => i % step === 0 || i === points.length - 1);
  put(kept.map((point) => point.map((value) => Number(value.toFixed(3))).join(" ")).join("; "), go);
};

// ---------------------------------------------------------------- the pen
const paint = () => {
  const svg = board();
  if (!svg) return;
  let pen = svg.querySelector(".pen");
  if (!pen) {
    pen = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    pen.setAttribute("class", "pen");
    svg.append(pen);
  }
  pen.setAttribute("points", points.map(place).join(" "));
};
const follow = () => {
  const flow = home(), area = field();
  if (!flow?.dataset.drawing || !area) return;
  const isChanged = isDrawing || area.value !== flow.dataset.drawing;
  flow.classList.toggle("changed", isChanged);
  if (!isDrawing) points = isChanged ? read(area.value) : [];
  paint();
};
const at = (event) => {
  const box = board().getBoundingClientRect();
  return [cut(((event.clientX - box.left) / box.width * 2 - 1) * REACH),
          cut((1 - (event.clientY - box.top) / box.height * 2) * REACH)];
};
element.addEventListener("pointerdown", (event) => {
  const svg = event.target.closest?.(".board svg");
  if (!svg) return;
  event.preventDefault();
  svg.focus({ preventScroll: true });
  isDrawing = true;
  points = [at(event)];
  element.setPointerCapture(event.pointerId);
  follow();
});
element.addEventListener("pointermove", (event) => {
  if (!isDrawing) return;
  const point = at(event), before = points.at(-1);
  if (Math.hypot(point[0] - before[0], point[1] - before[1]) < 0.02) return;
  points.push(point);
  paint();
});
const end = () => { if (isDrawing) { store(true); isDrawing = false; } };
element.addEventListener("pointerup", end);
element.addEventListener("pointercancel", end);
const MOVES = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
element.addEventListener("keydown", (event) => {
  if (event.target !== board()) return;
  if (event.key === "Enter") store(true);
  else if (event.key === "Delete" || event.key === "Backspace") points = [];
  else if (MOVES[event.key]) {
    const from = points.at(-1) || [0, 0], move = MOVES[event.key];
    points = [...(points.length ? points : [from]), from.map((value, i) => cut(value + move[i]))];
    store(false);
  } else return;
  event.preventDefault();
  follow();
});
element.addEventListener("click", (event) => {
  const ready = event.target.closest?.("[data-curve]");
  if (ready) put(ready.dataset.curve, true);
});

// ---------------------------------------------------------------- the ways back
const walk = () => {
  const slider = element.querySelector("[data-grow]");
  if (!slider) return;
  element.querySelectorAll("[data-back]").forEach((way) => {
    const track = way.dataset.back.split(" ");
    const shown = track.slice(0, Math.max(1, track.length - Number(slider.value)));
    way.querySelector("polyline")?.setAttribute("points", shown.join(" "));
    const [x, y] = shown.at(-1).split(",");
    const dot = way.querySelector("circle");
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
  });
};
new MutationObserver(walk).observe(element,
  { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-valuetext"] });
walk();
const following = setInterval(() => (element.isConnected ? follow() : clearInterval(following)), 250);
