// One scan as an app does it, told step by step: the same code runs in a browser and in Node. What differs
// between them is handed in: the EventSource, the photo (a Blob) and where the report goes.

const NAMES = ["queued", "vision", "rule", "answer", "reward", "done", "answer.delta"];

export async function scan({ EventSource, base, photo, report }) {
  const form = new FormData();
  form.append("image", photo, "photo.jpg");
  form.append("user_input", "Where does this go?");
  const response = await fetch(`${base}/scan`, { method: "POST", body: form, credentials: "include" });
  const job = await response.json();
  report({ kind: "submitted", status: response.status, body: job });
  await follow({ EventSource, url: base + job.stream_url, report });
  const result = await fetch(base + job.result_url, { credentials: "include" });
  report({ kind: "result", status: result.status, body: await result.json() });
}

// Never closes the stream: what ends it is the server's 204.
function follow({ EventSource, url, report }) {
  const events = new EventSource(url, { withCredentials: true });
  return new Promise((resolve) => {
    events.addEventListener("open", () => report({ kind: "open" }));
    for (const name of ["message", ...NAMES]) {
      events.addEventListener(name, (event) =>
        report({ kind: "event", name, id: event.lastEventId, body: JSON.parse(event.data) }));
    }
    events.addEventListener("error", (event) => {
      const closed = events.readyState === 2;
      report({ kind: "error", closed, body: event.data ?? null });
      if (closed) resolve();
    });
  });
}
