// Text as it is: what would be invisible, reorder the line or steer a terminal is spelt out.

const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff" +
    "\\ufff9-\\ufffb]|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]",
  "g",
);
const SPACES = {" ": "·", "\t": "→\t", "\n": "⏎\n", "\r": "␍"};

function spelled(character) {
  const code = character.charCodeAt(0);
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
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
