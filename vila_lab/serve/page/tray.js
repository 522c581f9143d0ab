// The tray: pictures in an order that the reader chooses, by mouse or by keys. Knows no model and no service.

import { button, element, enable } from "/page/elements.js";

/**
 * A list of pictures in `list`; a picture is `{ name, url }`, its file as a data: address.
 * `say(words)` is told aloud, `onChange()` hears every change; pictures that are not `removable` can only be moved.
 */
export function tray(list, { say, onChange = () => {}, removable = true }) {
  let cards = [];
  let dragged = null;

  const move = (card, to) => {
    const from = cards.indexOf(card);
    if (to < 0 || to >= cards.length || to === from) return;
    cards.splice(to, 0, ...cards.splice(from, 1));
    list.insertBefore(card.node, cards[to + 1]?.node ?? null);
    changed();
    say(`${card.picture.name} is now picture ${to + 1} of ${cards.length}.`);
  };
  const remove = (card) => {
    const at = cards.indexOf(card);
    cards.splice(at, 1);
    card.node.remove();
    changed();
    say(`${card.picture.name} was removed; ${counted(cards.length)} left.`);
    (cards[Math.min(at, cards.length - 1)]?.away ?? list.parentElement.querySelector("input[type=file]"))?.focus();
  };

  const cardOf = (picture) => {
    const card = { picture };
    const shift = (step) => (node) => { move(card, cards.indexOf(card) + step); node.focus(); }; // a node that moves loses the focus
    card.number = element("span", { className: "number" });
    card.before = button("◀", shift(-1));
    card.after = button("▶", shift(+1));
    card.away = removable ? button("✕", () => remove(card)) : null;
    const image = element("img", { src: picture.url, alt: picture.name, title: picture.name, draggable: false });
    const tools = element("div", { className: "card-tools" }, card.before, card.number, card.after, ...(removable ? [card.away] : []));
    card.node = element("li", { className: "card", draggable: true }, image, tools);
    card.node.addEventListener("dragstart", (event) => {
      dragged = card;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", picture.name); // or Firefox drags nothing
    });
    card.node.addEventListener("dragend", () => { dragged = null; });
    card.node.addEventListener("dragover", (event) => { if (dragged) event.preventDefault(); });
    card.node.addEventListener("drop", (event) => {
      if (!dragged) return; // files are the page's
      event.preventDefault();
      move(dragged, cards.indexOf(card));
    });
    return card;
  };

  const changed = () => {
    cards.forEach((card, k) => {
      const name = `picture ${k + 1}`;
      card.number.textContent = String(k + 1);
      card.before.setAttribute("aria-label", `Move ${name} to the front`);
      card.after.setAttribute("aria-label", `Move ${name} to the back`);
      card.before.title = "earlier";
      card.after.title = "later";
      card.away?.setAttribute("aria-label", `Remove ${name}`);
      enable(card.before, k > 0);
      enable(card.after, k < cards.length - 1);
    });
    list.hidden = !cards.length;
    onChange();
  };

  const put = (pictures) => {
    const more = pictures.map(cardOf);
    cards.push(...more);
    list.append(...more.map(({ node }) => node));
    changed();
  };
  list.hidden = true;
  return {
    pictures: () => cards.map(({ picture }) => picture),
    put,
    clear: () => { cards = []; list.replaceChildren(); changed(); },
    /** Add files, in their order. */
    add: async (files) => {
      const read = await Promise.all([...files].map(async (file) => ({ name: file.name || "pasted picture", url: await dataUrl(file) })));
      put(read);
      if (read.length) say(`${counted(read.length)} added, ${cards.length} in all.`);
    },
  };
}

const counted = (count) => (count === 1 ? "1 picture" : `${count} pictures`);

/** A file as a data: address, byte for byte: nothing is made smaller. */
function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}
