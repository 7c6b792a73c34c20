import { clock, duration } from "./format.js";

/** Returns what has happened to a run, in order, as far as it is stored: {at, kind, text}. */
export function makeLog(run, failures, steps) {
  const log = [{ at: run.started, kind: "running", text: "The request came in" }];
  const add = (at, kind, text) => { if (at !== null && at !== undefined) log.push({ at, kind, text }); };
  for (const step of steps) {
    for (const each of step.failures) add(each.ended, each.retry === null ? "failed" : "retrying", failed(`Step ${step.name}`, each));
    if (step.kind === "sleep") {
      add(step.started, "sleeping", `Sleeps in ${step.name}${step.ended === null ? ` until ${clock(step.due)}` : ""}`);
      add(step.ended, "running", `Woke up in ${step.name}`);
    } else if (["wait", "signal", "callback", "invoke"].includes(step.kind)) {
      add(step.started, "waiting", `Waits in ${step.name}${step.event ? ` for ${step.event}` : ""}`);
      add(step.ended, step.status === "failed" ? "failed" : "running", `The wait ${step.name} has ended`);
    } else if (step.ended !== null && !(step.status === "failed" && step.failures.length >= step.attempts)) {
      const took = step.started === null ? "" : ` in ${duration(step.ended - step.started)}`;
      add(step.ended, step.status, `Step ${step.name} ${step.status}${took}`);
    }
  }
  for (const each of failures) add(each.ended, each.retry === null ? "failed" : "retrying", failed("The handler", each));
  if (run.ended !== null) {
    const why = run.status === "failed" ? run.error : run.reason;
    add(run.ended, run.status, `The run has ${{ completed: "completed", failed: "failed", cancelled: "been cancelled" }[run.status] ?? "ended"}${why ? `: ${why}` : ""}`);
  }
  return log.sort((a, b) => a.at - b.at);
}

const failed = (what, attempt) =>
  `${what} failed, attempt ${attempt.number}: ${attempt.error}${attempt.retry === null ? "" : `; again at ${clock(attempt.retry)}`}`;
