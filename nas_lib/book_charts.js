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

  function draw(chart) {
    chart.spec ??= JSON.parse(chart.querySelector("script.nas-spec").textContent);
    chart.dataset.state = "drawing";
    const box = document.createElement("div");
    return window.vegaEmbed(box, chart.spec, {
      renderer: "svg",
      config: config(),
      actions: { export: true, source: false, compiled: false, editor: false },
    }).then((result) => {
      if (chart.view) chart.view.finalize();
      chart.view = result.view;
      chart.replaceChildren(box);
      chart.dataset.state = "live";
    }).catch((error) => {
      console.error(error);
      chart.dataset.state = "error";
    });
  }

  const drawAll = () => document.querySelectorAll(".nas-chart").forEach(draw);
  document.addEventListener("DOMContentLoaded", () => {
    drawAll();
    new MutationObserver(drawAll).observe(document.documentElement,
      { attributes: true, attributeFilter: ["data-theme"] });
  });
})();
