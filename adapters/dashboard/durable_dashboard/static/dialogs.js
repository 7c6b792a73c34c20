import { fill, h, notice } from "./dom.js";
import { Refused, TypedJSON } from "./server.js";

let number = 0;

/**
 * Asks for what an action needs, and does it. Fields: {name, label, value, kind, hint, disabled},
 * where kind is "text", "area" or "json"; a value of "json" is parsed before it is given to `run`.
 */
export function ask({ title, intro, fields, submit, danger, run, done }) {
  const id = `dialog${++number}`;
  const inputs = new Map();
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const rows = fields.map((field) => {
    const large = field.kind !== "text";
    const input = h(large ? "textarea" : "input", {
      id: `${id}-${field.name}`, name: field.name, disabled: field.disabled, spellcheck: "false",
      rows: large ? 8 : null, type: large ? null : "text", readonly: field.readonly,
      "aria-describedby": field.hint ? `${id}-${field.name}-hint` : null, class: large ? "code" : null,
    });
    input.value = field.value ?? "";
    inputs.set(field, input);
    return h("div", { class: "field" },
      h("label", { for: input.id }, field.label), input,
      field.hint && h("p", { class: "hint", id: `${id}-${field.name}-hint` }, field.hint));
  });
  const button = h("button", { type: "submit", class: danger ? "danger" : "primary" }, submit);
  const form = h("form", { onsubmit: go },
    h("h2", { id }, title), intro && h("p", { class: "hint" }, intro), rows, problem,
    h("div", { class: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, "Close"), button));
  const dialog = h("dialog", { "aria-labelledby": id, onclose: () => dialog.remove() }, form);

  async function go(event) {
    event.preventDefault();
    const values = {};
    try {
      for (const [field, input] of inputs) values[field.name] = read(field, input);
      button.disabled = true;
      const answer = await run(values);
      dialog.close();
      done?.(answer);
    } catch (error) {
      if (!(error instanceof Refused || error instanceof SyntaxError)) throw error;
      problem.hidden = false;
      fill(problem, error.message);
    } finally {
      button.disabled = false;
    }
  }

  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

function read(field, input) {
  if (field.disabled) return undefined;
  if (field.kind !== "json") return input.value;
  const text = input.value.trim() || "null";
  try {
    JSON.parse(text);
    return new TypedJSON(text);
  } catch (error) {
    throw new SyntaxError(`${field.label} is no JSON: ${error.message}`);
  }
}

/** Puts a text into the clipboard; shows it where that is not allowed. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    notice(`Copied ${what}`);
  } catch {
    ask({
      title: `Copy ${what}`, fields: [{ name: "text", label: "Text", value: text, kind: "area", readonly: true }],
      submit: "Done", run: async () => {},
    });
  }
}
