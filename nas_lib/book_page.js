/* What the theme leaves undone for those who read by keyboard or by ear: buttons are called what is seen on them,
   and what scrolls sideways can be reached. */
addEventListener("load", () => {
  const words = (element) => element.textContent.replace(/\s+/g, " ").trim();
  const call = (element, name) => element.setAttribute("aria-label", name);
  document.querySelectorAll("summary").forEach((summary) => {
    if (summary.closest(".nas-chart")) return;
    call(summary, words(summary) || `Pages of ${words(summary.closest("li")?.querySelector("a") ?? document.body)}`);
  });
  document.querySelectorAll(".search-button__button").forEach((button) => call(button, words(button) || "Search"));
  document.querySelectorAll(".theme-switch-button").forEach((button) =>
    call(button, "Color mode: " + [...button.querySelectorAll("[title], title")].map((icon) => icon.title || words(icon)).join(" ")));

  const wide = () => document.querySelectorAll(".nas-math, .nas-diagram, .nas-chart, pre").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  addEventListener("resize", wide);
  wide();
});
