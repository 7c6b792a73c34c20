// Elements are made here, and nowhere from text: what users wrote can only become text.

/** Characters that turn the order of those after them: what is read would not be what is there. */
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/** Returns an element. Props that are null, undefined or false are left out; `on…` are listeners. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

export function append(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child).replace(TURNS, "\ufffd"));
  }
}

/** Shows these children in place of those that are there. */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/** Has the parent show these nodes in this order; those that stay are not touched, so keep focus. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

/** Places an element by percentages of its parent's width. */
export function place(element, left, width) {
  element.style.left = `${left}%`;
  element.style.width = `${Math.max(0, width)}%`;
}

/** Tells people, and their screen reader, what has become of what they did. */
export function notice(text, kind = "good") {
  const area = document.getElementById("notices");
  const line = h("p", { class: `notice ${kind}` }, text);
  area.append(line);
  setTimeout(() => line.remove(), kind === "bad" ? 12000 : 5000);
}

export const hidden = (text) => h("span", { class: "sr" }, text);
