// What a TypeScript client may rely on. Compiled with `--strict` against the types that openapi-typescript makes of
// our OpenAPI document: a line after `@ts-expect-error` must not compile, any other line must.
import type { components, paths } from "./openapi";

type Schemas = components["schemas"];
type Result = Schemas["scan.result"];
type Events = Schemas["scan.event"];

export const request: Schemas["scan.request"] = { image_url: "https://example.org/can.jpg" };
export const asked: Schemas["scan.request"] = { image_url: "data:x", user_input: null, model: "small" };
// @ts-expect-error: a picture is required
export const nothing: Schemas["scan.request"] = { user_input: "?" };
// @ts-expect-error: no such model
export const unknown_model: Schemas["scan.request"] = { image_url: "data:x", model: "huge" };

export const form: Schemas["scan.form"] = { image: "<bytes>", user_input: "?" };
export const url_form: Schemas["scan.form"] = { image_url: "https://example.org/can.jpg" };
// @ts-expect-error: a picture is required here, too
export const empty_form: Schemas["scan.form"] = { user_input: "?" };
// @ts-expect-error: no such field
export const wrong_form: Schemas["scan.form"] = { image: "<bytes>", picture: "<bytes>" };

export const line: Schemas["scan.line"] = { image_url: "data:x", idempotency_key: "order-4711" };
// @ts-expect-error: a picture is required in a batch, too
export const empty_line: Schemas["scan.line"] = { idempotency_key: "order-4711" };

export function submitted(answer: Schemas["Answer"]): string {
    // @ts-expect-error: a line that was refused has no job
    answer.job_id.length;
    return "job_id" in answer ? `${answer.http_status} ${answer.job_id}` : `${answer.code}: ${answer.detail}`;
}

export function lines(result: Result): string[] {
    // @ts-expect-error: null where the scan did not complete
    result.pipeline_result.final_answer;
    if (result.pipeline_result === null) {
        return [result.error?.message ?? result.message];
    }
    const { classification_result: seen, disposal_rules: rules, final_answer: answer } = result.pipeline_result;
    // @ts-expect-error: no such member
    answer.text;
    // @ts-expect-error: no class of that name
    const metal = seen.classification.major_category === "metal";
    const steps: string[] = Object.values(answer.disposal_steps);
    const cost: (string | null)[] = Object.values(result.usage).map((used) => used.cost_usd);
    const name: string = result.reward?.name ?? rules?.item ?? seen.classification.minor_category;
    return [name, answer.user_answer, ...steps, ...answer.insufficiencies, ...seen.situation_tags, ...cost.map(String)];
}

export function shown(event: Events): string {
    // @ts-expect-error: not every event has one
    event.result;
    if (event.stage === "done") {
        return lines(event.result).join();
    }
    if (event.status === "failed") {
        return event.result.code;
    }
    if (event.stage === "vision" && event.status === "completed") {
        const tags: string[] = event.result.tags;
        return [event.result.minor, ...tags].join();
    }
    if (event.stage === "answer" && event.status === "completed") {
        return event.result.text;
    }
    // @ts-expect-error: no such stage
    const translated = event.stage === "translate";
    return `${event.stage} ${event.progress} %`;
}

export function again(event: Schemas["Retrying"]): string {
    return `${event.stage}: try ${event.attempt} in ${event.eta_seconds} s`;
}

type Get = paths["/scan/{job_id}/result"]["get"]["responses"];
export const completed = (body: Get[200]["content"]["application/json"]): string[] => lines(body);
export const waiting = (body: Get[202]["content"]["application/json"]): number => body.progress;
type Cancel = paths["/scan/{job_id}"]["delete"]["responses"];
export const cancelled = (body: Cancel[200]["content"]["application/json"]): string[] => lines(body);
export const urgent = (body: Schemas["helpdesk.result"]): boolean => body.triage?.urgent ?? false;
export const ended = (body: Schemas["plain.result"]): unknown => body["anything"];
