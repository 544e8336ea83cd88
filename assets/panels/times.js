// Scrubs the noise level behind the curves: each level is one picture and one row of points.
const input = element.querySelector("input"), out = element.querySelector("output");
const place = element.querySelector(".times").dataset.plot;
const plot = () => document.querySelector(`#${place} .js-plotly-plot`);
let playing = 0;
const show = () => {
  const figure = plot(), levels = figure?.layout?.meta?.times;
  if (!levels || levels.length < 2) return;
  input.max = levels.length - 1;
  const at = Math.min(Number(input.value), levels.length - 1);
  out.textContent = `t = ${levels[at].toFixed(3)}`;
  if (figure.data[at].visible === true) return;
  const on = Array.from({ length: 2 * levels.length }, (_, i) => i % levels.length === at);
  window.Plotly.restyle(figure, { visible: on }, on.map((_, i) => i));
};
input.addEventListener("input", () => { clearInterval(playing); playing = 0; show(); });
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-way]");
  if (!button) return;
  clearInterval(playing);
  const way = Number(button.dataset.way);
  input.value = way > 0 ? 0 : input.max;
  show();
  playing = setInterval(() => {
    input.value = Number(input.value) + way;
    show();
    if (!input.isConnected || Number(input.value) === (way > 0 ? Number(input.max) : 0)) clearInterval(playing);
  }, 110);
});
const follow = setInterval(() => {
  if (!input.isConnected) return clearInterval(follow);
  show();
}, 300);
