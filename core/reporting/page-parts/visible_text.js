// Text as it is: what would be invisible, reorder the line or steer a terminal is spelt out.

// UNSEEN_RUNS is that of foundation/visible_text.py, and comes before this script. With the flag u a surrogate is a
// lone one.
const UNSEEN = new RegExp(
  `[${UNSEEN_RUNS.map(([first, last]) => `\\u{${first.toString(16)}}-\\u{${last.toString(16)}}`).join("")}]`, "gu");
const SPACES = {" ": "·", "\t": "→\t", "\n": "⏎\n", "\r": "␍"};

function spelled(character) {
  const code = character.codePointAt(0);
  const digits = (count) => code.toString(16).padStart(count, "0");
  if (code < 0x100) return `\\x${digits(2)}`;
  return code < 0x10000 ? `\\u${digits(4)}` : `\\U${digits(8)}`;
}

function isBlank(text) {
  return text.trim() === "";
}

// The text with its unseen characters spelt, for places that hold nothing but text.
function plainly(text) {
  return text.replace(UNSEEN, spelled);
}

// Appends a text to an element; one that is nothing but white space is made visible.
function appendText(parent, text) {
  if (text !== "" && isBlank(text)) {
    const shown = text.replace(/[ \t\n\r]/g, (space) => SPACES[space]).replace(UNSEEN, spelled);
    parent.append(make("span", {class: "unseen", title: "white space"}, shown));
    return;
  }
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > from) parent.append(text.slice(from, match.index));
    parent.append(make("span", {class: "unseen"}, spelled(match[0])));
    from = match.index + match[0].length;
  }
  if (from < text.length) parent.append(text.slice(from));
}
