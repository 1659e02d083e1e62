// Which words of two texts the other does not have.

const PIECES = /\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu;
const WORD = /[\p{L}\p{N}]/u;

// The table of the longest common subsequence is not made larger than this (16 MB).
const LARGEST = 8_000_000;

/**
 * Both texts as lists of {text, only}: `only` where the other text has no counterpart. Null where they have no word in
 * common (marking everything would point at nothing) or are too long to compare.
 */
export function differences(first, second) {
  const both = [first, second].map((text) => text.match(PIECES) ?? []);
  const kept = common(...both);
  if (kept === null || !both[0].some((piece, at) => kept[0][at] && WORD.test(piece))) return null;
  return both.map((pieces, side) => runs(pieces, kept[side]));
}

/** For each text, which of its pieces stand in the longest common subsequence. */
function common(first, second) {
  const kept = [new Array(first.length).fill(false), new Array(second.length).fill(false)];
  let start = 0;
  let [end, other] = [first.length, second.length];
  const keep = (one, two) => (kept[0][one] = kept[1][two] = true);
  while (start < end && start < other && first[start] === second[start]) keep(start, start++);
  while (end > start && other > start && first[end - 1] === second[other - 1]) keep(--end, --other);
  const [rows, columns] = [end - start, other - start];
  if ((rows + 1) * (columns + 1) > LARGEST) return null;

  // length[i, j]: of the longest common subsequence of what follows row i and column j.
  const width = columns + 1;
  const length = new Uint16Array((rows + 1) * width);
  for (let row = rows - 1; row >= 0; row--) {
    for (let column = columns - 1; column >= 0; column--) {
      length[row * width + column] =
        first[start + row] === second[start + column]
          ? length[(row + 1) * width + column + 1] + 1
          : Math.max(length[(row + 1) * width + column], length[row * width + column + 1]);
    }
  }
  for (let row = 0, column = 0; row < rows && column < columns; ) {
    if (first[start + row] === second[start + column]) keep(start + row++, start + column++);
    else if (length[(row + 1) * width + column] >= length[row * width + column + 1]) row++;
    else column++;
  }
  return kept;
}

/** The pieces with neighbours of one kind joined. A gap is marked within a line between two marked words alone. */
function runs(pieces, kept) {
  const words = pieces.flatMap((piece, at) => (WORD.test(piece) ? [at] : []));
  const only = pieces.map((piece, at) => WORD.test(piece) && !kept[at]);
  words.slice(1).forEach((word, at) => {
    const gap = [words[at] + 1, word];
    if (only[words[at]] && only[word] && !pieces.slice(...gap).join("").includes("\n")) only.fill(true, ...gap);
  });
  const joined = [];
  pieces.forEach((text, at) => {
    if (joined.at(-1)?.only === only[at]) joined.at(-1).text += text;
    else joined.push({ text, only: only[at] });
  });
  return joined;
}
