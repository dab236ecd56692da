// node follow.mjs CLIENT URL: follows one job's event stream with a client from npm until it is killed. Writes a
// JSON line for each event that the client delivers, {name, data, id}, and {end} where the client stops by itself.
// The options are each client's own defaults unless its name says otherwise.

const NAMES = ["queued", "vision", "answer", "done"];
const write = (line) => console.log(JSON.stringify(line));
const event = (name, data, id) => write({ name, data, id });
const stop = (why) => write({ end: String(why) });

function listen(source, onClosed = () => source.readyState === 2) {
  for (const name of NAMES) {
    source.addEventListener(name, (e) => event(e.type, e.data, e.lastEventId));
  }
  source.addEventListener("message", (e) => event("message", e.data, e.lastEventId));
  source.addEventListener("error", () => onClosed() && stop("closed"));
}

async function fetchEventSource(url, options = {}) {
  globalThis.window = globalThis; // what the library takes from a browser
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  const { fetchEventSource } = await import("@microsoft/fetch-event-source");
  const onmessage = (m) => event(m.event, m.data, m.id);
  fetchEventSource(url, { onmessage, ...options }).then(() => stop("resolved"), stop);
}

const CLIENTS = {
  async eventsource(url) {
    const { EventSource } = await import("eventsource4");
    listen(new EventSource(url));
  },
  async eventsource2(url) {
    const { default: EventSource } = await import("eventsource2");
    listen(new EventSource(url));
  },
  async undici(url) {
    const { EventSource } = await import("undici");
    listen(new EventSource(url));
  },
  async launchdarkly(url) {
    const { EventSource } = (await import("launchdarkly-eventsource")).default;
    const source = new EventSource(url);
    listen(source);
    source.addEventListener("closed", () => stop("closed"));
  },
  async reconnecting(url) {
    const { EventSource } = await import("eventsource4");
    const { default: Reconnecting } = await import("reconnecting-eventsource");
    listen(new Reconnecting(url, { eventSourceClass: EventSource, max_retry_time: 300 }));
  },
  async polyfill(url) {
    const { default: polyfill } = await import("event-source-polyfill");
    listen(new polyfill.EventSourcePolyfill(url));
  },
  fetch: (url) => fetchEventSource(url, { onclose: again }),
  json: (url) =>
    fetchEventSource(url, {
      onclose: again,
      onmessage(m) {
        JSON.parse(m.data); // throws where the library delivers an empty message
        event(m.event, m.data, m.id);
      },
    }),
  sample: (url) =>
    fetchEventSource(url, {
      async onopen(response) {
        if (response.ok && response.headers.get("content-type") === "text/event-stream") return;
        if (response.status >= 400 && response.status < 500 && response.status !== 429) throw new Error("fatal");
        throw new Error("try again");
      },
      onclose: again,
      onerror(error) {
        if (error.message === "fatal") throw error;
      },
    }),
};

function again() {
  throw new Error("closed before done"); // without it the library takes a clean end for the end of the job
}

setInterval(() => {}, 1000); // undici waits for its next connection without keeping the process alive
const [client, url] = process.argv.slice(2);
await CLIENTS[client](url);
