/* Draws every .nas-chart of a page with the bundled Vega, in the page's light or dark theme, and again
   when the theme changes. data-state tells how far it is: "drawing", "live" or "error". */
(function () {
  const INK = {
    light: { text: "#32363d", quiet: "#5a6270", line: "#c9ced6", grid: "#e8eaee" },
    dark: { text: "#d5dae1", quiet: "#a3abb6", line: "#4d545e", grid: "#31363d" },
  };

  function config() {
    const root = document.documentElement;
    const ink = INK[root.dataset.theme === "dark" ? "dark" : "light"];
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      axis: { labelColor: ink.quiet, titleColor: ink.text, gridColor: ink.grid, domainColor: ink.line,
              tickColor: ink.line },
      legend: { labelColor: ink.text, titleColor: ink.quiet },
      header: { labelColor: ink.text, titleColor: ink.text },
      title: { color: ink.text, subtitleColor: ink.quiet },
      text: { color: ink.text },
      rule: { color: ink.quiet },
    };
  }

  const LEAST = 0.75;     // how far a chart may shrink
  const AXIS = 72;        // what an axis takes beside a plot

  // Panels side by side stand below each other where the page is narrow, none wider than the page.
  function fitted(spec, width) {
    const panels = (spec.hconcat ?? spec.concat ?? (spec.facet && []))?.map(
      (panel) => panel.width > width - AXIS ? { ...panel, width: width - AXIS } : panel);
    if (!panels || width >= 560) return spec;
    const { hconcat, ...rest } = spec;
    return { ...rest, ...(panels.length ? { concat: panels } : {}), columns: 1 };
  }

  async function draw(chart) {
    chart.dataset.state = "drawing";
    try {
      chart.spec ??= JSON.parse(chart.querySelector("script.nas-spec").textContent);
      const box = document.createElement("div"), spec = fitted(chart.spec, chart.clientWidth);
      const { view } = await window.vegaEmbed(box, spec, {
        renderer: spec.usermeta?.embedOptions?.renderer ?? "svg",
        config: config(),
        actions: { export: true, source: false, compiled: false, editor: false },
      });
      const svg = box.querySelector("svg.marks");
      if (svg) svg.style.minWidth = `${LEAST * svg.getAttribute("width")}px`;
      box.querySelector("summary")?.setAttribute("aria-label", "Save this chart");
      if (chart.view) chart.view.finalize();
      chart.view = view;
      chart.replaceChildren(box);
      chart.dataset.state = "live";
    } catch (error) {
      console.error(error);
      chart.dataset.state = "error";
    }
  }

  async function drawAll() {      // one after the other, so that the first is seen before the last is drawn
    for (const chart of document.querySelectorAll(".nas-chart")) {
      await draw(chart);
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
  document.addEventListener("DOMContentLoaded", () => {
    drawAll();
    new MutationObserver(drawAll).observe(document.documentElement,
      { attributes: true, attributeFilter: ["data-theme"] });
  });
})();
