// node node.mjs BASE PHOTO: one scan with npm's `eventsource`, reported as JSON lines on standard output.

import { readFile } from "node:fs/promises";
import { EventSource } from "eventsource";
import { scan } from "./scan.mjs";

const [base, file] = process.argv.slice(2);
const photo = new Blob([await readFile(file)], { type: "image/jpeg" });
await scan({ EventSource, base, photo, report: (line) => console.log(JSON.stringify(line)) });
