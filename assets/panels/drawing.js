// A curve drawn with the mouse, a finger or the arrow keys: the text field is the truth.
const box = element.querySelector("[data-drawing]");
const canvas = box.querySelector("canvas"), said = box.querySelector("[data-said]");
const REACH = 1.6, MOST = 300;
const field = () => document.querySelector("#" + box.dataset.field + " textarea");
let points = [], last = null, isDrawing = false, pen = [0, 0];

const read = (text) => text.split(/[\n;]/).map((pair) => pair.trim().split(/[\s,]+/).map(Number))
  .filter((pair) => pair.length === 2 && pair.every(Number.isFinite));
const place = ([x, y]) => [(x / REACH + 1) / 2 * canvas.width, (1 - y / REACH) / 2 * canvas.height];
const paint = () => {
  const pencil = canvas.getContext("2d"), ink = getComputedStyle(box).color;
  pencil.clearRect(0, 0, canvas.width, canvas.height);
  pencil.strokeStyle = pencil.fillStyle = ink;
  pencil.lineWidth = 3;
  pencil.lineCap = pencil.lineJoin = "round";
  pencil.beginPath();
  points.forEach((point, i) => pencil[i ? "lineTo" : "moveTo"](...place(point)));
  pencil.stroke();
  if (points.length) {
    pencil.beginPath();
    pencil.arc(...place(points[0]), 7, 0, 2 * Math.PI);
    pencil.fill();
  }
};
const store = (go) => {
  const area = field();
  if (!area || points.length < 2) return;
  const step = Math.ceil(points.length / MOST);
  const kept = points.filter((_, i) => i % step === 0 || i === points.length - 1);
  last = kept.map((point) => point.map((value) => Number(value.toFixed(3))).join(" ")).join("; ");
  area.value = last;
  area.dispatchEvent(new Event("input", { bubbles: true }));
  said.textContent = `${kept.length} points`;
  if (go) setTimeout(() => document.querySelector("#" + box.dataset.run)?.click(), 80);
};
const at = (event) => {
  const rect = canvas.getBoundingClientRect(), cut = (v) => Math.max(-REACH, Math.min(REACH, v));
  return [cut(((event.clientX - rect.left) / rect.width * 2 - 1) * REACH),
          cut((1 - (event.clientY - rect.top) / rect.height * 2) * REACH)];
};
canvas.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  isDrawing = true;
  points = [at(event)];
  canvas.setPointerCapture(event.pointerId);
  paint();
});
canvas.addEventListener("pointermove", (event) => {
  if (!isDrawing) return;
  const point = at(event), before = points.at(-1);
  if (Math.hypot(point[0] - before[0], point[1] - before[1]) < 0.02) return;
  points.push(point);
  paint();
});
const end = () => { if (isDrawing) { isDrawing = false; store(true); } };
canvas.addEventListener("pointerup", end);
canvas.addEventListener("pointercancel", end);
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
  if (event.key === "Delete" || event.key === "Backspace") { points = []; pen = [0, 0]; }
  else if (event.key === "Enter") { store(true); return; }
  else if (moves[event.key]) {
    if (!points.length) points = [[...pen]];
    pen = points.at(-1).map((value, i) => Math.max(-REACH, Math.min(REACH, value + moves[event.key][i])));
    points.push(pen);
    store(false);
  } else return;
  event.preventDefault();
  paint();
});
box.addEventListener("click", (event) => {
  const button = event.target.closest("[data-preset]");
  if (!button) return;
  points = read(button.dataset.preset);
  paint();
  store(true);
});

// The field may also be typed into, or be filled by a link: follow it.
const follow = setInterval(() => {
  if (!box.isConnected) return clearInterval(follow);
  const area = field();
  if (!area || area.value === last || isDrawing) return;
  last = area.value;
  points = read(last);
  paint();
}, 250);
