// In a browser: follows the event stream at `base` and reports every event that is delivered.

export async function scan({ EventSource, base, report }) {
  const source = new EventSource(base);
  for (const name of ["queued", "vision", "answer", "done", "message"]) {
    source.addEventListener(name, (e) => report({ kind: "event", name, id: e.lastEventId, body: e.data }));
  }
  source.addEventListener("error", () => report({ kind: "error", closed: source.readyState === 2 }));
}
