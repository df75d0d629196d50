// How Postgres types travel: the mends of the gateway package's own parsers and serializers.

// The package passes on Postgres's own spelling ("2026-01-31 12:00:00.5+00"); PostgREST sends
// RFC 3339, and supabase-py refuses anything else.
export function rfc3339(text) {
  if (text === "infinity" || text === "-infinity") return text;
  return text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00");
}

// A JavaScript number keeps 15 digits and drops trailing zeros. PostgREST sends what Postgres
// wrote, so a number is carried as its text wherever the two differ.
export function exactNumber(text) {
  const number = Number(text);
  if (!Number.isFinite(number)) return text; // NaN and infinities: a string, as in PostgREST
  return String(number) === text ? number : JSON.rawJSON(text);
}

const LONG_OR_FRACTIONAL = /\d\.\d|\d{16}/;

export function exactJson(text) {
  if (!LONG_OR_FRACTIONAL.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_key, value, { source } = {}) =>
    typeof value === "number" && source !== undefined ? exactNumber(source) : value,
  );
}

// The package has already encoded RPC arguments when they get here: encoding the text again would
// store a JSON string instead of the object.
const json = (oid) => ({
  to: oid,
  from: [oid],
  serialize: (value) => (typeof value === "string" ? value : JSON.stringify(value)),
  parse: exactJson,
});

export const types = {
  timestamptz: { to: 1184, from: [1184], serialize: (value) => value, parse: rfc3339 },
  numeric: { to: 1700, from: [1700], serialize: (value) => String(value), parse: exactNumber },
  json: json(114),
  jsonb: json(3802),
};
