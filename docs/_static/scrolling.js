// What scrolls sideways can be reached and scrolled with the keyboard.
addEventListener("load", () => {
  for (const each of document.querySelectorAll("pre, .table-wrapper, .output"))
    if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
});
