// Actions as they are packed in a data file: half-precision numbers, one channel after the other, zlib, base64.
"use strict";
(() => {
  const half = (bits) => {
    const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 0x1f, bits & 0x3ff];
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  };

  // A list for each channel, with a number for each row.
  vlarig.unpack = async ({ shape: [rows, channels], data }) => {
    if (!window.DecompressionStream) throw new Error("this browser is too old to unpack them");
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const view = new DataView(await new Response(stream).arrayBuffer());
    return Array.from({ length: channels }, (_, channel) =>
      Array.from({ length: rows }, (__, row) => half(view.getUint16(2 * (channel * rows + row), true))));
  };
})();
