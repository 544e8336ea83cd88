// A brush on 32 x 32 cells: the text field holds 256 hexadecimal digits, row by row, or a word.
const box = element.querySelector("[data-brush]"), canvas = box.querySelector("canvas");
const field = () => document.querySelector("#" + box.dataset.field + " textarea, #" + box.dataset.field + " input");
const given = () => document.querySelector(`#${box.dataset.given} img`);
const SIDE = 32, CELL = 8, context = canvas.getContext("2d");
const HALVES = {
  "": (x) => x >= 16, right: (x) => x >= 16, left: (x) => x < 16,
  top: (_, y) => y < 16, bottom: (_, y) => y >= 16, centre: (x, y) => x >= 9 && x < 23 && y >= 9 && y < 23,
};
let cells = new Uint8Array(SIDE * SIDE), last = null, lastImage = null, brush = null;

const read = (text) => {
  const word = text.trim().toLowerCase();
  if (word in HALVES) return cells.map((_, i) => HALVES[word](i % SIDE, Math.floor(i / SIDE)) ? 1 : 0);
  if (!/^[0-9a-f]{256}$/.test(word)) return cells;
  return cells.map((_, i) => (parseInt(word[i >> 2], 16) >> (3 - (i & 3))) & 1);
};
const write = () => {
  let text = "";
  for (let i = 0; i < cells.length; i += 4) {
    text += (cells[i] * 8 + cells[i + 1] * 4 + cells[i + 2] * 2 + cells[i + 3]).toString(16);
  }
  const target = field();
  target.value = last = text;
  target.dispatchEvent(new Event("input", { bubbles: true }));
};
const paint = () => {
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, canvas.width, canvas.height);
  const image = given();
  if (image?.complete && image.naturalWidth) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.fillStyle = "rgba(208, 106, 27, 0.72)";
  cells.forEach((on, i) => on && context.fillRect((i % SIDE) * CELL, Math.floor(i / SIDE) * CELL, CELL, CELL));
};
const touch = (event) => {
  const area = canvas.getBoundingClientRect();
  const at = (value, from, size) => Math.floor(SIDE * (value - from) / size);
  const x = at(event.clientX, area.left, area.width), y = at(event.clientY, area.top, area.height);
  for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) {
    const i = x + dx, j = y + dy;
    if (i >= 0 && j >= 0 && i < SIDE && j < SIDE) cells[j * SIDE + i] = brush;
  }
  paint();
};
canvas.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  brush = event.button === 2 || event.shiftKey ? 0 : 1;
  touch(event);
});
canvas.addEventListener("pointermove", (event) => { if (brush !== null) touch(event); });
canvas.addEventListener("pointerup", () => { if (brush !== null) { brush = null; write(); } });
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
box.querySelector("[data-clear]").addEventListener("click", () => { cells = new Uint8Array(SIDE * SIDE); paint(); });
const follow = setInterval(() => {
  if (!canvas.isConnected) return clearInterval(follow);
  const target = field(), image = given()?.src;
  if (!target || brush !== null || (target.value === last && image === lastImage)) return;
  if (target.value !== last) cells = read(target.value);
  [last, lastImage] = [target.value, image];
  paint();
}, 250);
