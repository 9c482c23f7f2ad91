// The one way to the server: JSON in, JSON out, refusals as `Refusal` with the sentence that the server gave.

import { lang, word } from "./words.js";

const BASE = "/api/v1/";

export class Refusal extends Error {
  constructor(status, body) {
    super(body?.message || word("offline"));
    this.status = status;
    this.code = body?.code ?? "";
    this.detail = body?.detail ?? {};
  }
}

export async function call(path, { method = "GET", json, body, type, signal, keepalive } = {}) {
  const headers = { "Accept-Language": lang };
  if (json !== undefined) { headers["Content-Type"] = "application/json"; body = JSON.stringify(json); }
  if (type) headers["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(path.startsWith("/") ? path : BASE + path, { method, headers, body, signal, keepalive, cache: "no-cache" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, null);
  }
  if (answer.ok) return answer;
  let said = null;
  try { said = await answer.json(); } catch { /* an answer without a sentence: the status alone is told */ }
  throw new Refusal(answer.status, said);
}

export const read = async (path, options) => (await call(path, options)).json();
