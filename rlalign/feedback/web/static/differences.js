// Marks of the words that two answers do not have in common.
"use strict";
const Differences = (() => {
  const MAX_CELLS = 4e6; // largest table: 8 MB, about 30 ms

  const SINGLE = String.raw`\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}`;
  const WORD = new RegExp(String.raw`[${SINGLE}]|(?:(?![${SINGLE}])[\p{L}\p{M}\p{N}_])+|[^\s\p{L}\p{N}]`, "gu");

  // Return the words of an element with their places. In scripts without spaces each character is a word.
  function wordsOf(root) {
    const words = [];
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      if (node.parentElement.closest("math")) continue; // marks are not allowed inside MathML
      for (const match of node.data.matchAll(WORD)) words.push({ node, at: match.index, text: match[0] });
    }
    return words;
  }

  // Return the words of each list that are not common to both, or null if the table would be too large.
  function differences(left, right) {
    let start = 0;
    while (start < Math.min(left.length, right.length) && left[start].text === right[start].text) start++;
    const a = left.slice(start);
    const b = right.slice(start);
    while (a.length && b.length && a[a.length - 1].text === b[b.length - 1].text) a.pop(), b.pop();
    const width = b.length + 1;
    if ((a.length + 1) * width > MAX_CELLS) return null;
    const common = new Uint16Array((a.length + 1) * width); // [i, j]: length for a[i..] and b[j..]
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        const at = i * width + j;
        common[at] = a[i].text === b[j].text ? common[at + width + 1] + 1 : Math.max(common[at + width], common[at + 1]);
      }
    }
    const onlyA = [];
    const onlyB = [];
    let i = 0;
    let j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i].text === b[j].text) i++, j++;
      else if (j === b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) onlyA.push(a[i++]);
      else onlyB.push(b[j++]);
    }
    return [onlyA, onlyB];
  }

  // Wrap words in <mark>: last word first, since splitting a node moves the places behind it.
  function wrap(words) {
    for (const { node, at, text } of words.reverse()) {
      node.splitText(at + text.length);
      const marked = document.createElement("mark");
      const part = node.splitText(at);
      part.replaceWith(marked);
      marked.append(part);
    }
  }

  // Mark the differences between two elements; return false if they are too long or too different.
  function mark(left, right) {
    const changed = differences(wordsOf(left), wordsOf(right));
    changed?.forEach(wrap);
    return changed !== null;
  }

  function unmark(root) {
    root.querySelectorAll("mark").forEach((marked) => marked.replaceWith(...marked.childNodes));
    root.normalize();
  }

  return { mark, unmark };
})();
