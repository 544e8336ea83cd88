

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
